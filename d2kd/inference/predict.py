"""Detections on images, folders and videos: drawn, and as COCO json."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import List

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.structures import Instances
from detectron2.utils.visualizer import ColorMode, Visualizer
from torch import nn

from ..adapters import build_adapter
from ..build import student_config
from ..config.loading import without_pretrained
from ..config.naming import construct
from ..data.image_files import SUFFIXES, ImageFiles, list_images
from ..data.listing import listed
from ..data.pixels import PixelError, read_pixels
from ..errors import ConfigError, MissingFileError
from ..file_io import expect, told
from ..quantize import load_quantized, quantize_student
from ..teachers.classes import detector_classes
from ..text import plain
from .detections import drawing_metadata
from .drawings import save_drawing
from .pseudo_labels import Labelled
from .video import VIDEOS, convert_video


class Predictor:
    """A detector in eval mode that resizes images as for testing.

    Attributes:
        highest: score of all detections so far, also of those under a threshold; 0 of none.
    """

    def __init__(self, cfg: CfgNode, weights: str) -> None:
        """Build and fill the student of a config.

        Raises:
            ValueError, OSError: the config or the checkpoint is wrong.
        """
        self.detector = build_student(cfg)
        load_quantized(self.detector, weights, "--weights")
        self.format = cfg.INPUT.FORMAT
        self.highest = 0.0
        self._resize = ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)

    @torch.no_grad()
    def __call__(self, image: np.ndarray, threshold: float = 0.0) -> Instances:
        """Detections with a score of `threshold` or more, boxes XYXY in px of `image`.

        Raises:
            PixelError: a side of the image is 0 px where the other is as INPUT.MIN_SIZE_TEST says.
        """
        height, width = image.shape[:2]
        try:
            resized = self._resize.get_transform(image).apply_image(image)
        except ValueError:
            raise PixelError(f"{width} x {height} px are too narrow to be resized") from None
        tensor = torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1)))
        inputs = [{"image": tensor.float(), "height": height, "width": width}]
        found = self.detector(inputs)[0]["instances"].to("cpu")
        self.highest = max([self.highest, *found.scores.tolist()])
        return found[found.scores >= threshold]

    def draw(self, image: np.ndarray, found: Instances, classes: Sequence[str]) -> np.ndarray:
        """(H, W, 3) uint8 RGB with boxes, masks, class names and scores."""
        rgb = image[:, :, ::-1] if self.format == "BGR" else image
        metadata = drawing_metadata(classes, found)
        drawn = Visualizer(rgb, metadata, instance_mode=ColorMode.IMAGE)
        return drawn.draw_instance_predictions(found).get_image()


def build_student(cfg: CfgNode) -> nn.Module:
    """The detector of a config, in eval mode, with random weights; no teacher is built."""
    detector = construct(without_pretrained(student_config(cfg))).eval()
    quantize_student(detector, cfg)
    return detector


def class_names(config: str, cfg: CfgNode, weights: str, detector: nn.Module) -> List[str]:
    """Class names of a trained detector, [] if they are not known; see `detector_classes`."""
    return detector_classes(config, cfg, weights, build_adapter(detector).spec().num_classes)


def find_images(source: Path) -> ImageFiles:
    """`source` itself, or the images of a folder and its subfolders.

    Raises:
        ConfigError: there is no image.
    """
    if not source.exists():
        raise MissingFileError(f"{plain(source)} does not exist.")
    if not source.is_dir():
        expect(source, "SOURCE", "image", "video")
        if source.suffix.lower() not in SUFFIXES:
            known = ", ".join(sorted(SUFFIXES | VIDEOS))
            raise ConfigError(f"{plain(source)} is no image or video; known: {known}.")
        return ImageFiles([source], [])
    images, left_out = list_images(source)
    videos = [x for x in sorted(source.rglob("*")) if x.suffix.lower() in VIDEOS]
    left_out += listed(videos, "videos are left out: give each by itself")
    if not images:
        reasons = "".join(f" {line}." for line in left_out)
        known = ", ".join(sorted(SUFFIXES))
        raise ConfigError(f"{plain(source)} holds no image ({known}).{reasons}{told(source)}")
    return ImageFiles(images, left_out)


def predict_images(
    predictor: Predictor,
    files: Mapping[Path, Path],
    root: Path,
    threshold: float,
    classes: Sequence[str],
) -> Iterator[Labelled | PixelError]:
    """Detect, draw and yield what was found, or why an image is left out.

    Args:
        predictor: the detector.
        files: images in the folder `root`, and where to write each drawing.
        root: what the names of images start from.
        threshold: lowest score.
        classes: names to write beside boxes.
    """
    for path, target in files.items():
        try:
            image = read_pixels(path, predictor.format)
            found = _detect(predictor, path, image, threshold)
            save_drawing(target, predictor.draw(image, found, classes))
        except PixelError as error:
            yield error
        except OSError as error:
            yield PixelError(f"{target} cannot be written: {error.strerror or error}")
        else:
            name, (height, width) = path.relative_to(root).as_posix(), image.shape[:2]
            yield Labelled(name, width, height, found.pred_boxes.tensor.tolist(),
                           found.pred_classes.tolist(), found.scores.tolist())  # fmt: skip


def _detect(predictor: Predictor, path: Path, image: np.ndarray, threshold: float) -> Instances:
    try:
        return predictor(image, threshold)
    except PixelError as error:
        raise PixelError(f"{path}: {error}") from None


def predict_video(
    predictor: Predictor, source: Path, target: Path, threshold: float, classes: Sequence[str]
) -> tuple[int, int]:
    """Detect on every frame and write them, drawn, as an mp4; see `convert_video`."""

    def draw(frame: np.ndarray) -> np.ndarray:
        image = frame if predictor.format == "BGR" else frame[:, :, ::-1]
        return predictor.draw(image, predictor(image, threshold), classes)

    return convert_video(source, target, draw)


def category_names(predictor: Predictor, classes: Sequence[str]) -> list[str]:
    """The names of the classes, or their numbers where they are not known."""
    count = build_adapter(predictor.detector).spec().num_classes
    return list(classes) or [str(index) for index in range(count)]
