"""The file that stage 1 of MasKD is for."""

from pathlib import Path

from detectron2.engine import HookBase

from ...teachers import TokenLearner


class LearntTokens(HookBase):
    """Writes OUTPUT_DIR/tokens.safetensors at the end of a training; on the first rank alone."""

    def __init__(self, learner: TokenLearner, folder: str) -> None:
        """Set whose tokens go where."""
        self._learner, self._folder = learner, Path(folder)

    def after_train(self) -> None:
        """Write them, unless the training ended early."""
        if self.trainer.iter >= self.trainer.max_iter:
            self._learner.write(self._folder)
