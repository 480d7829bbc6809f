#!/usr/bin/env python
"""Draw what the distillation heads of a config compare, on test images, as PNG files.

Rows are maps: PGD's weights, attention masks, the difference of student and teacher. Columns are
all levels together and each level. Several --weights, of one run, show before and after.
"""

import argparse
import sys
from pathlib import Path

from detectron2.modeling import build_model

from d2kd.checkpoint.checkpointer import SafeCheckpointer
from d2kd.config.loading import load_config
from d2kd.data import register_custom_datasets
from d2kd.data.catalog import require_registered
from d2kd.inference.distillation_maps import draw_batch, picture_batch


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config-file", required=True, help="a distillation config")
    parser.add_argument("--output", type=Path, required=True, help="folder of the PNG files")
    parser.add_argument("--images", type=int, default=2, help="first images of DATASETS.TEST[0]")
    parser.add_argument(
        "--weights", nargs="+", default=[""], metavar="FILE",
        help="checkpoints of the student, one set of pictures each (default: MODEL.WEIGHTS)",
    )  # fmt: skip
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE")
    return parser.parse_args()


def main() -> None:
    """Run the command line."""
    args = parse_arguments()
    cfg = load_config(args.config_file, args.opts)
    if cfg.MODEL.META_ARCHITECTURE != "Distiller":
        raise ValueError(f"--config-file {args.config_file} does not distil: it has no heads.")
    register_custom_datasets(cfg)
    require_registered(cfg, "TEST")
    distiller = build_model(cfg)
    batch = picture_batch(cfg, args.images)
    args.output.mkdir(parents=True, exist_ok=True)
    for number, weights in enumerate(args.weights):
        checkpointer = SafeCheckpointer(distiller, distillation=distiller.heads)
        checkpointer.load(weights or cfg.MODEL.WEIGHTS)
        figures = draw_batch(distiller, batch)
        if not figures:
            raise ValueError(f"None of DISTILL.HEADS {cfg.DISTILL.HEADS} has maps to draw.")
        for index, figure in enumerate(figures):
            path = args.output / f"image{index}_weights{number}.png"
            figure.savefig(path)
            print(path)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
