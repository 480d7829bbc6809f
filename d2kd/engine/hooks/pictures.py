"""Pictures of a training: the heads' maps, and detections side by side."""

from pathlib import Path
from typing import List

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.engine import HookBase
from detectron2.utils import comm
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ...inference.detections import compare_detections
from ...inference.distillation_maps import draw_batch, picture_batch


class Pictures(HookBase):
    """Draws on test images before training, every `period` steps and at the end.

    The heads' maps go to OUTPUT_DIR/maps, the detections of teachers and student beside the ground
    truth to OUTPUT_DIR/detections, as PNG files; all of them also to TensorBoard.
    """

    def __init__(self, cfg: CfgNode) -> None:
        """Read DISTILL.PICTURES; data is DATASETS.TEST[0].

        Raises:
            ValueError: DATASETS.TEST is empty.
        """
        if not cfg.DATASETS.TEST:
            raise ValueError(
                "DISTILL.PICTURES draws on images of DATASETS.TEST, which is empty; name a data "
                "set there, or set DISTILL.PICTURES.PERIOD to 0."
            )
        self.cfg, self.period = cfg, cfg.DISTILL.PICTURES.PERIOD

    def before_train(self) -> None:
        """Draw the student as it starts."""
        if comm.is_main_process():
            self._batch = picture_batch(self.cfg, self.cfg.DISTILL.PICTURES.IMAGES)
            self._draw(self.trainer.start_iter)

    def after_step(self) -> None:
        """Draw where it is due, and after the last step."""
        done = self.trainer.iter + 1
        due = done % self.period == 0 or done == self.trainer.max_iter
        if due and comm.is_main_process():
            self._draw(done)

    def _draw(self, iteration: int) -> None:
        distiller = self.trainer.distiller
        classes = MetadataCatalog.get(self.cfg.DATASETS.TEST[0]).get("thing_classes", [])
        self._save("maps", draw_batch(distiller, self._batch), iteration)
        self._save("detections", compare_detections(distiller, self._batch, classes), iteration)

    def _save(self, kind: str, figures: List[Figure], iteration: int) -> None:
        folder = Path(self.cfg.OUTPUT_DIR) / kind
        folder.mkdir(parents=True, exist_ok=True)
        for index, figure in enumerate(figures):
            figure.savefig(folder / f"image{index}_{iteration:07d}.png")
            canvas = FigureCanvasAgg(figure)
            canvas.draw()
            pixels = np.asarray(canvas.buffer_rgba())[..., :3].transpose(2, 0, 1)
            self.trainer.storage.put_image(f"{kind}/{index}", pixels.copy())
