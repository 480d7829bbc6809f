"""When distillation is on, and how strong."""

from detectron2.engine import HookBase


class DistillationSchedule(HookBase):
    """Scale of all distillation losses: a linear warm-up, full, then off after a last iteration."""

    def __init__(self, warmup_iters: int = 0, last_iter: int = -1) -> None:
        """Set the schedule.

        Args:
            warmup_iters: iterations over which the scale rises from 0 to 1.
            last_iter: last distilled iteration; -1 for no end.
        """
        self.warmup_iters, self.last_iter = warmup_iters, last_iter

    def scale_at(self, iteration: int) -> float:
        """The scale in [0, 1] at an iteration counted from 0."""
        if 0 <= self.last_iter < iteration:
            return 0.0
        return min(1.0, iteration / self.warmup_iters) if self.warmup_iters > 0 else 1.0

    def before_step(self) -> None:
        """Set the scale of this step."""
        self.trainer.distiller.scale = self.scale_at(self.trainer.iter)
