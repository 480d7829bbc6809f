"""Detections on images, folders and videos: drawn, and as COCO json."""

import contextlib
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Sequence, Tuple

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog, detection_utils
from detectron2.data.catalog import Metadata
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.structures import BoxMode, Instances
from detectron2.utils.visualizer import ColorMode, Visualizer
from torch import nn

from ..adapters import build_adapter
from ..build import student_config
from ..checkpoint import load_detector
from ..config.loading import without_pretrained
from ..config.naming import construct
from ..data import dataset_num_classes, register_custom_datasets
from ..data.class_names import recorded_classes
from ..data.image_files import SUFFIXES
from ..errors import ConfigError, MissingFileError

VIDEOS = {".avi", ".mkv", ".mov", ".mp4", ".mpg", ".webm"}


class Frame(NamedTuple):
    """An image to look at: its name, and (H, W, 3) uint8 in the detector's channel order."""

    name: str
    image: np.ndarray


class Predictor:
    """A detector in eval mode that resizes images as for testing."""

    def __init__(self, cfg: CfgNode, weights: str) -> None:
        """Build and fill the student of a config.

        Raises:
            ValueError, OSError: the config or the checkpoint is wrong.
        """
        self.detector = build_student(cfg)
        load_detector(self.detector, weights, "--weights")
        self.format = cfg.INPUT.FORMAT
        self._resize = ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)

    @torch.no_grad()
    def __call__(self, image: np.ndarray, threshold: float = 0.0) -> Instances:
        """Detections with a score of `threshold` or more, boxes XYXY in px of `image`."""
        height, width = image.shape[:2]
        resized = self._resize.get_transform(image).apply_image(image)
        tensor = torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1)))
        inputs = [{"image": tensor.float(), "height": height, "width": width}]
        found = self.detector(inputs)[0]["instances"].to("cpu")
        return found[found.scores >= threshold]

    def draw(self, image: np.ndarray, found: Instances, classes: Sequence[str]) -> np.ndarray:
        """(H, W, 3) uint8 RGB with boxes, masks, class names and scores."""
        rgb = image[:, :, ::-1] if self.format == "BGR" else image
        metadata = Metadata(thing_classes=list(classes)) if classes else Metadata()
        drawn = Visualizer(rgb, metadata, instance_mode=ColorMode.IMAGE)
        return drawn.draw_instance_predictions(found).get_image()


def build_student(cfg: CfgNode) -> nn.Module:
    """The plain detector of a config, in eval mode, with random weights; no teacher is built."""
    return construct(without_pretrained(student_config(cfg))).eval()


def class_names(cfg: CfgNode, folder: Path | None = None) -> List[str]:
    """Class names of the run in `folder`, or of the config's data sets; [] if unknown."""
    if folder is not None and (folder / "run.json").is_file():
        return recorded_classes(str(folder))
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        with contextlib.suppress(ConfigError, KeyError):  # data that is not on this machine
            register_custom_datasets(cfg)
            dataset_num_classes(name)
        if MetadataCatalog.get(name).get("thing_classes"):
            return list(MetadataCatalog.get(name).thing_classes)
    return []


def image_files(path: Path) -> List[Path]:
    """`path` itself, or the images of a folder and its subfolders.

    Raises:
        ConfigError: there is no image.
    """
    if not path.exists():
        raise MissingFileError(f"{path} does not exist.")
    if path.is_file() and path.suffix.lower() not in SUFFIXES:
        known = ", ".join(sorted(SUFFIXES | VIDEOS))
        raise ConfigError(f"{path} is no image or video; known: {known}.")
    found = [path] if path.is_file() else sorted(path.rglob("*"))
    found = [x for x in found if x.suffix.lower() in SUFFIXES]
    if not found:
        raise ConfigError(f"{path} holds no image ({', '.join(sorted(SUFFIXES))}).")
    return found


def read_images(files: Sequence[Path], format: str) -> Iterator[Frame]:
    """Images as Detectron2 reads them.

    Raises:
        ConfigError: one cannot be read.
    """
    for path in files:
        try:
            yield Frame(str(path), detection_utils.read_image(str(path), format))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path} cannot be read as an image: {error}") from None


def predict_images(
    predictor: Predictor,
    files: Sequence[Path],
    root: Path,
    output: Path,
    threshold: float,
    classes: Sequence[str],
) -> Iterator[Tuple[Frame, Instances]]:
    """Detect, write a drawn PNG of each image under `output`, and yield what was found."""
    for frame in read_images(files, predictor.format):
        found = predictor(frame.image, threshold)
        relative = Path(frame.name).relative_to(root if root.is_dir() else root.parent)
        target = (output / relative).with_suffix(".png")
        target.parent.mkdir(parents=True, exist_ok=True)
        drawn = predictor.draw(frame.image, found, classes)
        cv2.imwrite(str(target), drawn[:, :, ::-1])
        yield frame, found


def predict_video(
    predictor: Predictor, source: Path, target: Path, threshold: float, classes: Sequence[str]
) -> int:
    """Detect on every frame and write them, drawn, as an mp4; returns the number of frames.

    Raises:
        ConfigError: OpenCV cannot read the video, or cannot write this one.
    """
    video = cv2.VideoCapture(str(source))
    size = tuple(int(video.get(x)) for x in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
    if not video.isOpened() or 0 in size:
        raise ConfigError(f"{source} cannot be read as a video.")
    target.parent.mkdir(parents=True, exist_ok=True)
    code = cv2.VideoWriter.fourcc(*"mp4v")
    writer = cv2.VideoWriter(str(target), code, video.get(cv2.CAP_PROP_FPS) or 25.0, size)
    if not writer.isOpened():
        raise ConfigError(f"{target} cannot be written: OpenCV has no mp4 encoder here.")
    count = 0
    while (read := video.read())[0]:
        image = read[1] if predictor.format == "BGR" else read[1][:, :, ::-1]
        drawn = predictor.draw(image, predictor(image, threshold), classes)
        writer.write(cv2.resize(drawn, size)[:, :, ::-1].copy())
        count += 1
    video.release()
    writer.release()
    return count


def to_coco(
    found: Sequence[Tuple[Frame, Instances]],
    root: Path,
    adapter_classes: int,
    classes: Sequence[str],
) -> Dict[str, Any]:
    """Detections as a data set in COCO's json format, such as pseudo-labels; boxes XYWH, px."""
    names = list(classes) or [str(index) for index in range(adapter_classes)]
    coco: Dict[str, Any] = {
        "categories": [{"id": i, "name": name} for i, name in enumerate(names, 1)],
        "images": [],
        "annotations": [],
    }
    for image_id, (frame, instances) in enumerate(found, 1):
        name = Path(frame.name).relative_to(root if root.is_dir() else root.parent).as_posix()
        height, width = frame.image.shape[:2]
        coco["images"].append({"id": image_id, "file_name": name, "width": width, "height": height})
        boxes = instances.pred_boxes.tensor
        boxes = BoxMode.convert(boxes, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS).tolist()
        rows = zip(boxes, instances.pred_classes.tolist(), instances.scores.tolist(), strict=True)
        for box, label, score in rows:
            coco["annotations"].append({
                "id": len(coco["annotations"]) + 1, "image_id": image_id, "bbox": box,
                "category_id": label + 1, "area": box[2] * box[3], "iscrowd": 0, "score": score,
            })  # fmt: skip
    return coco


def num_classes(predictor: Predictor) -> int:
    """Number of classes of the detector."""
    return build_adapter(predictor.detector).spec().num_classes
