"""Drawing one image of the digits data set: scans of digits on a crop of a photograph."""

from dataclasses import dataclass
from typing import Any, Dict, List, Tuple

import numpy as np
from PIL import Image
from pycocotools import mask as rle

MAX_OVERLAP = 0.1  # IoU two digits of one image may have
INK = 0.25  # pixels at least this opaque (0 to 1) belong to the digit's box and mask


@dataclass(frozen=True)
class DigitsSpec:
    """What is built; two equal specs give the same files.

    Args:
        num_train: number of training images.
        num_test: number of test images.
        seed: seed of every random choice.
        image_size: side of the square images, pixels.
        digits_per_image: smallest and largest number of digits in an image.
        digit_size: smallest and largest side of the square scan before its ink is boxed, pixels.
        version: raised when the drawing changes, so that older files are built again.
        photos: which of the two photographs, 0 and 1, the backgrounds are crops of.
    """

    num_train: int = 3000
    num_test: int = 200
    seed: int = 0
    image_size: int = 128
    digits_per_image: Tuple[int, int] = (3, 8)
    digit_size: Tuple[int, int] = (14, 48)
    version: int = 2
    photos: Tuple[int, ...] = (0, 1)


@dataclass(frozen=True)
class Drawn:
    """A digit of an image.

    Args:
        box: XYWH, pixels.
        digit: 0 to 9.
        ink: (h, w) bool, the mask within the box; also where a later digit covers this one.
    """

    box: Tuple[int, int, int, int]
    digit: int
    ink: np.ndarray

    def annotation(self, image_size: int) -> Dict[str, Any]:
        """COCO's box, area of the box, category and mask as RLE."""
        x, y, w, h = self.box
        mask = np.zeros((image_size, image_size), dtype=np.uint8, order="F")
        mask[y : y + h, x : x + w] = self.ink
        segmentation = rle.encode(mask)
        segmentation["counts"] = segmentation["counts"].decode("ascii")
        area = {"bbox": list(self.box), "area": w * h, "iscrowd": 0}
        return {"category_id": self.digit + 1, **area, "segmentation": segmentation}


def _background(photos: List[np.ndarray], size: int, rng: np.random.Generator) -> np.ndarray:
    """A random square crop of a random photograph: (size, size, 3) float32 in [0, 255]."""
    photo = photos[rng.integers(len(photos))]
    side = int(rng.integers(size * 3 // 4, min(photo.shape[:2]) + 1))
    top = int(rng.integers(photo.shape[0] - side + 1))
    left = int(rng.integers(photo.shape[1] - side + 1))
    crop = Image.fromarray(photo[top : top + side, left : left + side])
    pixels = np.asarray(crop.resize((size, size), Image.Resampling.BILINEAR), dtype=np.float32)
    return pixels[:, ::-1].copy() if rng.random() < 0.5 else pixels.copy()


def _opacity(scan: np.ndarray, size: int) -> np.ndarray:
    """The (8, 8) scan in [0, 16], enlarged and cut to its ink: (h, w) float32 in [0, 1]."""
    image = Image.fromarray((scan * (255 / 16)).astype(np.uint8))
    pixels = np.asarray(image.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float32)
    alpha = np.clip(pixels / 255, 0, 1)
    rows, columns = np.where((alpha >= INK).any(1))[0], np.where((alpha >= INK).any(0))[0]
    return alpha[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _iou(box: np.ndarray, boxes: List[np.ndarray]) -> float:
    """Largest IoU of one XYXY box, pixels, with any of the others; 0 without others."""
    best = 0.0
    for other in boxes:
        wh = np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2])
        inter = float(np.clip(wh, 0, None).prod())
        union = float((box[2:] - box[:2]).prod() + (other[2:] - other[:2]).prod()) - inter
        best = max(best, inter / union)
    return best


def _color(region: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random RGB colour, (3,) in [0, 255], that differs from the (h, w, 3) region's mean."""
    mean = region.mean((0, 1))
    for _ in range(20):
        color = rng.uniform(0, 255, 3)
        if np.abs(color - mean).mean() > 60:
            break
    return color


def draw_image(
    photos: List[np.ndarray],
    scans: np.ndarray,
    labels: np.ndarray,
    spec: DigitsSpec,
    rng: np.random.Generator,
) -> Tuple[np.ndarray, List[Drawn]]:
    """Draw one image.

    Args:
        photos: RGB photographs, each (H, W, 3) uint8.
        scans: (N, 8, 8) digit scans in [0, 16] to choose from.
        labels: (N,) the digit of every scan.
        spec: sizes and counts.
        rng: the image's own generator.

    Returns:
        RGB pixels, (image_size, image_size, 3) uint8, and the digits drawn, those below first.
    """
    canvas = _background(photos, spec.image_size, rng)
    boxes: List[np.ndarray] = []
    objects: List[Drawn] = []
    wanted = int(rng.integers(spec.digits_per_image[0], spec.digits_per_image[1] + 1))
    for _ in range(50 * wanted):
        index = int(rng.integers(len(scans)))
        alpha = _opacity(
            scans[index], int(rng.integers(spec.digit_size[0], spec.digit_size[1] + 1))
        )
        h, w = alpha.shape
        x, y = (int(rng.integers(spec.image_size - side + 1)) for side in (w, h))
        box = np.array([x, y, x + w, y + h])
        if _iou(box, boxes) > MAX_OVERLAP:
            continue
        region = canvas[y : y + h, x : x + w]
        region += alpha[..., None] * (_color(region, rng) - region)
        boxes.append(box)
        objects.append(Drawn((x, y, w, h), int(labels[index]), alpha >= INK))
        if len(objects) == wanted:
            break
    return np.clip(canvas, 0, 255).astype(np.uint8), objects
