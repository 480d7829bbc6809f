"""Handwritten digits on photographs: a small, real, offline detection data set.

The digits are the 1,797 scans of ``sklearn.datasets.load_digits`` and the backgrounds are crops of
the two photographs of ``sklearn.datasets.load_sample_images``; both come with scikit-learn, so
nothing is downloaded. Training and test images share no scan.
"""

import argparse
import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Dict, List, Optional, Union

import numpy as np
from PIL import Image

from .drawing import DigitsSpec, draw_image

CLASS_NAMES = [str(digit) for digit in range(10)]
SPLITS = ("train", "test")


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
        for drawn in objects:
            numbers = {"id": len(annotations) + 1, "image_id": i + 1}
            annotations.append({**numbers, **drawn.annotation(side)})
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
