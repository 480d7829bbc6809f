"""Seconds that COCO's box metrics take for as many images as COCO's validation set has.

Objects and detections are synthetic: 7 objects of 80 classes an image, 100 detections. Both
evaluators get the same predictions; that their numbers are equal is asserted.

    python benchmarks/bm_evaluation.py
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Dict, List

import numpy as np
from detectron2.evaluation import COCOEvaluator
from timing import header, timed

from d2kd.data.builtin import register_coco_format
from d2kd.evaluation import FastCOCOEvaluator

SIZE = 480, 640


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--detections", type=int, default=100)
    parser.add_argument("--output", help="JSON file to write")
    return parser.parse_args()


def boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """XYWH, px."""
    corner = rng.uniform(0, 1, (count, 2)) * (SIZE[1] - 200, SIZE[0] - 200)
    return np.hstack([corner, rng.uniform(8, 200, (count, 2))])


def write_objects(path: Path, args: argparse.Namespace, rng: np.random.Generator) -> List[dict]:
    size = {"height": SIZE[0], "width": SIZE[1]}
    images = [{"id": i, "file_name": path.name, **size} for i in range(args.images)]  # not opened
    objects = []
    for image in images:
        for box in boxes(rng, rng.poisson(7)).round(2).tolist():
            objects.append({"id": len(objects) + 1, "image_id": image["id"], "bbox": box,
                            "category_id": int(rng.integers(80)), "area": box[2] * box[3],
                            "iscrowd": 0})  # fmt: skip
    classes = [{"id": i, "name": str(i)} for i in range(80)]
    path.write_text(json.dumps({"images": images, "annotations": objects, "categories": classes}))
    return objects


def predict(objects: List[dict], args: argparse.Namespace, rng: np.random.Generator) -> List[dict]:
    """What `COCOEvaluator` stores of each image: shaken objects, then boxes anywhere."""
    found = [{"image_id": i, "instances": []} for i in range(args.images)]
    for x in objects:
        box = np.array(x["bbox"]) * rng.normal(1, 0.1, 4)
        add(found[x["image_id"]]["instances"], x["image_id"], x["category_id"], box, rng)
    for image in found:
        for box in boxes(rng, max(args.detections - len(image["instances"]), 0)):
            add(image["instances"], image["image_id"], int(rng.integers(80)), box, rng)
    return found


def add(results: List[dict], image: int, label: int, box: np.ndarray, rng) -> None:  # noqa: ANN001
    results.append({"image_id": image, "category_id": label, "bbox": np.abs(box).tolist(),
                    "score": float(rng.random())})  # fmt: skip


def measure(evaluator: COCOEvaluator, predictions: List[dict]) -> Dict[str, object]:
    evaluator._predictions = [
        {**x, "instances": [dict(y) for y in x["instances"]]} for x in predictions
    ]
    results = {}
    seconds = timed(lambda: results.update(evaluator.evaluate()), "cpu") / 1000
    return {"seconds": seconds, **results["bbox"]}


def main() -> None:
    args, rng = parse_arguments(), np.random.default_rng(0)
    head = {**header("cpu"), **vars(args)}
    print("\n".join(f"{key}: {value}" for key, value in head.items()))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "objects.json"
        predictions = predict(write_objects(path, args, rng), args, rng)
        register_coco_format("bm_evaluation", str(path), folder, "coco")
        fast = measure(FastCOCOEvaluator("bm_evaluation"), predictions)
        stock = measure(COCOEvaluator("bm_evaluation", use_fast_impl=False), predictions)
    for key in set(stock) - {"seconds"}:
        np.testing.assert_allclose(fast[key], stock[key], rtol=1e-12)
    ratio = stock["seconds"] / fast["seconds"]
    print(f"\npycocotools: {stock['seconds']:.1f} s\nfaster-coco-eval: {fast['seconds']:.1f} s")
    print(f"times faster: {ratio:.1f}; box AP {fast['AP']:.4f} by both")
    if args.output:
        results = {"header": head, "pycocotools": stock, "faster-coco-eval": fast}
        Path(args.output).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
