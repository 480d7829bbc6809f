"""What the methods measure beside their losses."""

from detectron2.engine import HookBase
from detectron2.utils.events import get_event_storage


class HeadMeasures(HookBase):
    """Logs `<Head>/<name>` of `DistillationHead.measures`; only then the host waits for them."""

    def __init__(self, period: int = 20) -> None:
        """Set the period in iterations, that of the writers."""
        self.period = period

    def after_step(self) -> None:
        """Write to the event storage what the last step has measured."""
        if (self.trainer.iter + 1) % self.period:
            return
        for name, head in self.trainer.distiller.heads.items():
            for key, x in getattr(head, "measures", {}).items():
                get_event_storage().put_scalar(f"{name}/{key}", float(x), smoothing_hint=False)
