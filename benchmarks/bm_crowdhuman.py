"""Seconds that CrowdHuman's evaluator takes for as many images as its validation set has.

Boxes are synthetic: about 23 objects and 2 ignore regions an image, 500 detections of which some
200 lie near objects, scores at random.

    python benchmarks/bm_crowdhuman.py
"""

import argparse
import time
from typing import Tuple

import numpy as np
from timing import header

from d2kd.evaluation.crowd_metrics import average_precision, image_record, jaccard_index

SIZE = 800, 1200


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=4370)
    parser.add_argument("--objects", type=int, default=23, help="mean of an image")
    parser.add_argument("--detections", type=int, default=500)
    return parser.parse_args()


def scene(rng: np.random.Generator, args: argparse.Namespace) -> Tuple[np.ndarray, ...]:
    count = rng.poisson(args.objects)
    corner = rng.uniform(0, 1, (count + 2, 2)) * (SIZE[1] - 100, SIZE[0] - 200)
    truth = np.hstack([corner, corner + rng.uniform(0.5, 1.5, (count + 2, 1)) * (60, 150)])
    near = truth[rng.integers(0, count + 2, args.detections * 2 // 5)]
    near = near + rng.normal(0, 8, near.shape)
    corner = rng.uniform(0, 1, (args.detections - len(near), 2)) * (SIZE[1], SIZE[0])
    boxes = np.vstack([near, np.hstack([corner, corner + rng.uniform(20, 150, corner.shape)])])
    return boxes, rng.random(len(boxes)), truth[:count], truth[count:]


def main() -> None:
    args, rng = parse_arguments(), np.random.default_rng(0)
    print("\n".join(f"{key}: {value}" for key, value in {**header("cpu"), **vars(args)}.items()))
    records, seconds, objects = [], 0.0, 0
    for _ in range(args.images):
        image = scene(rng, args)
        start = time.perf_counter()
        records.append(image_record(*image, SIZE))
        seconds += time.perf_counter() - start
        objects += len(image[2])
    start = time.perf_counter()
    ap, miss_rate = average_precision(records)
    jaccard = jaccard_index(records)
    end = time.perf_counter() - start
    print(f"\n{objects:,} objects; AP {ap:.4f}, MR {miss_rate:.4f}, JI {max(jaccard):.4f}")
    print(f"images: {seconds:.1f} s ({1000 * seconds / args.images:.2f} ms each)")
    print(f"data set: {end:.2f} s\ntotal: {seconds + end:.1f} s")


if __name__ == "__main__":
    main()
