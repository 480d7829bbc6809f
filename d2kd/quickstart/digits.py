"""Handwritten digits on photographs: a small, real, offline detection data set.

The digits are the 1,797 scans of ``sklearn.datasets.load_digits`` and the backgrounds are crops of
the two photographs of ``sklearn.datasets.load_sample_images``; both come with scikit-learn, so
nothing is downloaded. Training and test images share no scan.
"""

import argparse
import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple, Union

import numpy as np
from detectron2.data import DatasetCatalog
from detectron2.data.datasets import register_coco_instances
from PIL import Image

CLASS_NAMES = [str(digit) for digit in range(10)]
SPLITS = ("train", "test")
MAX_OVERLAP = 0.1  # IoU two digits of one image may have
INK = 0.25  # pixels at least this opaque (0 to 1) belong to the digit's box


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
    version: int = 1
    photos: Tuple[int, ...] = (0, 1)


def split_scans(labels: np.ndarray, seed: int) -> Dict[str, np.ndarray]:
    """Deal the scans to the splits: four of five to training, the rest to test.

    Args:
        labels: (N,) digit of every scan; only its length matters.
        seed: seed of the shuffle.

    Returns:
        Split name to the indices of its scans; no index is in both.
    """
    order = np.random.default_rng([seed, 0]).permutation(len(labels))
    cut = len(labels) * 4 // 5
    return {"train": order[:cut], "test": order[cut:]}


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
) -> Tuple[np.ndarray, List[Tuple[List[int], int]]]:
    """Draw one image.

    Args:
        photos: RGB photographs, each (H, W, 3) uint8.
        scans: (N, 8, 8) digit scans in [0, 16] to choose from.
        labels: (N,) the digit of every scan.
        spec: sizes and counts.
        rng: the image's own generator.

    Returns:
        RGB pixels, (image_size, image_size, 3) uint8, and a list of (XYWH box in pixels, digit).
    """
    canvas = _background(photos, spec.image_size, rng)
    boxes: List[np.ndarray] = []
    objects: List[Tuple[List[int], int]] = []
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
        objects.append(([x, y, w, h], int(labels[index])))
        if len(objects) == wanted:
            break
    return np.clip(canvas, 0, 255).astype(np.uint8), objects


def _draw_split(root: Path, split: str, spec: DigitsSpec) -> None:
    """Write ``<root>/<split>/*.jpg`` and ``<root>/<split>.json`` in COCO layout."""
    from sklearn.datasets import load_digits, load_sample_images

    digits, photos = load_digits(), load_sample_images().images
    photos = [photos[i] for i in spec.photos]
    chosen = split_scans(digits.target, spec.seed)[split]
    scans, labels = digits.images[chosen], digits.target[chosen]
    (root / split).mkdir(parents=True, exist_ok=True)
    images: List[Dict[str, Any]] = []
    annotations: List[Dict[str, Any]] = []
    for i in range(spec.num_train if split == "train" else spec.num_test):
        rng = np.random.default_rng([spec.seed, 1 + SPLITS.index(split), i])
        pixels, objects = draw_image(photos, scans, labels, spec, rng)
        name, side = f"{i:05d}.jpg", spec.image_size
        Image.fromarray(pixels).save(root / split / name, quality=92)
        images.append({"id": i + 1, "file_name": name, "height": side, "width": side})
        for box, digit in objects:
            numbers = {"id": len(annotations) + 1, "image_id": i + 1, "category_id": digit + 1}
            area = {"bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            annotations.append({**numbers, **area})
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(CLASS_NAMES)]
    coco = {"images": images, "annotations": annotations, "categories": categories}
    (root / f"{split}.json").write_text(json.dumps(coco))


def _manifest(root: Path, spec: DigitsSpec) -> Dict[str, Any]:
    """The spec, and for each split the SHA-256 of its annotations and its number of images."""
    splits = {}
    for split in SPLITS:
        digest = hashlib.sha256((root / f"{split}.json").read_bytes()).hexdigest()
        splits[split] = {"sha256": digest, "images": len(list((root / split).glob("*.jpg")))}
    described = json.loads(json.dumps(asdict(spec)))
    if spec.photos == DigitsSpec.photos:
        del described["photos"]  # as in manifests from before there was a choice
    return {"spec": described, "splits": splits}


def build_digits(root: Union[str, Path], spec: Optional[DigitsSpec] = None) -> bool:
    """Build the data set below ``root`` unless the same one is already there.

    Args:
        root: folder of the data set, created when absent.
        spec: what to build; the default is the quick start's 3,000 and 200 images.

    Returns:
        True when files were written, False when the data set was already complete.
    """
    root, spec = Path(root), spec or DigitsSpec()
    manifest = root / "manifest.json"
    try:
        if json.loads(manifest.read_text()) == _manifest(root, spec):
            return False
    except (OSError, ValueError):
        pass
    for split in SPLITS:
        for stale in (root / split).glob("*.jpg"):
            stale.unlink()
        _draw_split(root, split, spec)
    manifest.write_text(json.dumps(_manifest(root, spec), indent=1))
    return True


def register_digits(root: Optional[Union[str, Path]] = None) -> None:
    """Register ``digits_train`` and ``digits_test`` with Detectron2, once.

    Args:
        root: folder of the data set; by default ``$DETECTRON2_DATASETS/digits``, where an unset
            variable means ``datasets``, as everywhere in Detectron2.
    """
    base = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")).expanduser()
    root = base / "digits" if root is None else Path(root)
    for split in SPLITS:
        if f"digits_{split}" in DatasetCatalog:
            continue
        files = (str(root / f"{split}.json"), str(root / split))
        register_coco_instances(f"digits_{split}", {"thing_classes": list(CLASS_NAMES)}, *files)


def main() -> None:
    """Command line: build the data set."""
    spec = DigitsSpec()
    parser = argparse.ArgumentParser(description="Build the digits-on-photographs data set.")
    parser.add_argument("--root", default="datasets/digits", help="folder to write")
    parser.add_argument("--train", type=int, default=spec.num_train, help="training images")
    parser.add_argument("--test", type=int, default=spec.num_test, help="test images")
    parser.add_argument("--seed", type=int, default=spec.seed)
    parser.add_argument("--photo", type=int, choices=[0, 1], help="backgrounds from one photograph")
    args = parser.parse_args()
    photos = spec.photos if args.photo is None else (args.photo,)
    spec = DigitsSpec(num_train=args.train, num_test=args.test, seed=args.seed, photos=photos)
    built = build_digits(args.root, spec)
    print(f"{args.root}: {'built' if built else 'already complete, nothing to do'}")


if __name__ == "__main__":
    main()
