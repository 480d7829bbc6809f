"""Pictures of what the heads compare: their maps over the image, level by level."""

from pathlib import Path
from typing import Dict, List

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.engine import HookBase
from detectron2.utils import comm
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from .adapters import STUDENT_ONLY
from .data import labelled_test_data
from .detections import compare_detections
from .distiller import Distiller

Maps = Dict[str, Dict[int, Tensor]]


@torch.no_grad()
def distillation_maps(distiller: Distiller, batch: List[dict]) -> List[Maps]:
    """What `DistillationHead.maps` of every head gives for a batch, in evaluation mode.

    Args:
        distiller: student, teachers and heads; left in the mode it was in.
        batch: dicts with "image" (3, H, W) and "instances" with gt_boxes and gt_classes.

    Returns:
        List[Maps]: per image "<Head>: <name>" -> stride -> (rows, columns) on the CPU, without the
        cells of batch padding. No head's losses are computed and nothing is updated.
    """
    training = distiller.training
    distiller.eval()
    images = distiller.adapter.preprocess(batch, distiller.divisor)
    student = distiller.adapter(images, None, distiller.need - STUDENT_ONLY)
    student.gt = [x["instances"].to(distiller.device) for x in batch]
    found: List[Maps] = [{} for _ in batch]
    for name, head in distiller.heads.items():
        teacher = distiller.teachers[distiller.teacher_of[name]]
        need = head.requires - STUDENT_ONLY
        output = teacher(batch, distiller.divisor, distiller.input_format, need)
        for label, levels in head.maps(student, output).items():
            for image, size in enumerate(images.image_sizes):
                found[image][f"{name}: {label}"] = {
                    s: x[image, : -(-size[0] // s), : -(-size[1] // s)].float().cpu()
                    for s, x in levels.items()
                }
    distiller.train(training)
    return found


def draw_maps(image: np.ndarray, boxes: np.ndarray, maps: Maps) -> Figure:
    """One row a map: its largest value over the levels, then each level, over the image in grey.

    Args:
        image: (H, W, 3) uint8 RGB.
        boxes: (G, 4) XYXY px, drawn in the first column.
        maps: of one image, from `distillation_maps`; the brightest color of a row is its largest
            value, which is written beside it.
    """
    height, width = image.shape[:2]
    columns = max(len(levels) for levels in maps.values()) + 1
    figure = Figure(figsize=(2.4 * columns, 0.25 + 2.4 * height / width * len(maps)), dpi=120)
    axes = figure.subplots(len(maps), columns, squeeze=False)
    grey = image.mean(2) / 255
    for row, (name, levels) in zip(axes, maps.items(), strict=True):
        whole = {stride: _enlarge(x, stride, height, width) for stride, x in levels.items()}
        panels = {"all levels": np.max(list(whole.values()), axis=0)}
        panels.update({f"stride {stride} px": x for stride, x in whole.items()})
        top = max(float(panels["all levels"].max()), 1e-12)
        for axis in row:
            axis.axis("off")
        for axis, (title, x) in zip(row, panels.items(), strict=False):
            axis.imshow(grey, cmap="gray", vmin=0, vmax=1)
            axis.imshow(x, cmap="inferno", vmin=0, vmax=top, alpha=0.25 + 0.65 * x / top)
            axis.set_title(f"{name}, to {top:.2g}" if axis is row[0] else title, fontsize=6, pad=2)
        for x1, y1, x2, y2 in boxes:
            box = Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, color="deepskyblue", lw=0.6)
            row[0].add_patch(box)
    figure.subplots_adjust(0.005, 0.005, 0.995, 0.96, wspace=0.02, hspace=0.12)
    return figure


def _enlarge(x: Tensor, stride: int, height: int, width: int) -> np.ndarray:
    size = [n * stride for n in x.shape]
    return F.interpolate(x[None, None], size, mode="nearest")[0, 0, :height, :width].numpy()


def draw_batch(distiller: Distiller, batch: List[dict]) -> List[Figure]:
    """Figures of every image of a batch; [] where no head has maps."""
    figures = []
    for x, maps in zip(batch, distillation_maps(distiller, batch), strict=True):
        image = x["image"].permute(1, 2, 0).numpy().astype(np.uint8)
        image = image[..., ::-1] if distiller.input_format == "BGR" else image
        if maps:
            boxes = x["instances"].gt_boxes.tensor.cpu().numpy()
            figures.append(draw_maps(image, boxes, maps))
    return figures


def picture_batch(cfg: CfgNode, count: int) -> List[dict]:
    """The first images of DATASETS.TEST[0] with their objects, resized as for testing."""
    records, mapper = labelled_test_data(cfg)
    return [mapper(record) for record in records[:count]]


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
        self._write("maps", draw_batch(distiller, self._batch), iteration)
        self._write("detections", compare_detections(distiller, self._batch, classes), iteration)

    def _write(self, kind: str, figures: List[Figure], iteration: int) -> None:
        folder = Path(self.cfg.OUTPUT_DIR) / kind
        folder.mkdir(parents=True, exist_ok=True)
        for index, figure in enumerate(figures):
            figure.savefig(folder / f"image{index}_{iteration:07d}.png")
            canvas = FigureCanvasAgg(figure)
            canvas.draw()
            pixels = np.asarray(canvas.buffer_rgba())[..., :3].transpose(2, 0, 1)
            self.trainer.storage.put_image(f"{kind}/{index}", pixels.copy())
