#!/usr/bin/env python
"""Convert a checkpoint of mmdetection into a Detectron2 checkpoint and the yaml that loads it.

    python tools/convert_mmdet_checkpoint.py gfl_r101_2x.pth teachers

writes teachers/gfl_r101_2x.pth and teachers/gfl_r101_2x.yaml. As a teacher:

    DISTILL.TEACHER.CONFIG_FILES "('teachers/gfl_r101_2x.yaml',)"

and as a plain detector: train_net.py --eval-only --config-file teachers/gfl_r101_2x.yaml.

RetinaNet, FCOS, ATSS, GFL, GFLv2, Faster and Mask R-CNN with ResNet or ResNeXt, also deformable,
and FPN, from mmdetection 2 and 3. No code of the file is run.
"""

import argparse
import dataclasses
import sys

from d2kd.convert import convert_mmdet


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", help=".pth of mmdetection")
    parser.add_argument("folder", help="gets <name>.pth and <name>.yaml")
    parser.add_argument("--name", default="", help="the source's name without suffix if not given")
    style = "stride and pixel format; the file's own config if not given"
    parser.add_argument("--style", choices=["caffe", "pytorch"], default="", help=style)
    parser.add_argument("--config", default="", help="mmdetection's config, if the file has none")
    parser.add_argument("--classes", type=int, help="for a GFLv2 trained without the extra row")
    return parser.parse_args()


def main() -> None:
    """Convert and say what was found."""
    args = parse_arguments()
    try:
        done = convert_mmdet(
            args.source, args.folder, args.name, args.style, args.classes, args.config
        )
    except (ValueError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    for key, value in dataclasses.asdict(done.architecture).items():
        print(f"{key}: {value} (from the tensors)")
    for key, value in done.sources.items():
        print(f"{key}: {value}")
    print(f"wrote {done.checkpoint}\nwrote {done.config}")


if __name__ == "__main__":
    main()
