"""Command line of the quick start."""

import argparse
import os
import sys
import warnings
from pathlib import Path

from ..errors import ConfigError, ignore_warnings_of_dependencies

ignore_warnings_of_dependencies()
# Threads that wait for each other on busy cores sleep sooner; on quiet ones it costs nothing.
# PyTorch's OpenMP reads it when PyTorch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

import torch  # noqa: E402

from ..cores import usable_cores  # noqa: E402
from ..text import make_output_plain  # noqa: E402
from .stages import run  # noqa: E402


def main() -> None:
    """Train a student plainly and distilled, compare them, and write a report."""
    parser = argparse.ArgumentParser(prog="python -m d2kd.quickstart", description=main.__doc__)
    parser.add_argument("--output", type=Path, default=Path("output/quickstart"), metavar="DIR")
    parser.add_argument("--steps", type=int, metavar="N", help="training steps of each student")
    parser.add_argument(
        "--rebuild-teacher",
        action="store_true",
        help="train the teacher first (about 20 minutes on two CPU cores) instead of loading it",
    )
    args = parser.parse_args()
    if args.steps is not None and args.steps < 1:
        parser.error("--steps must be at least 1")
    make_output_plain()
    warnings.filterwarnings("ignore")  # deprecations in Detectron2 and torch; log.txt has the rest
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(min(8, usable_cores()))  # more do not help models this small
    try:
        run(args.output, args.steps, args.rebuild_teacher)
    except (FileNotFoundError, ConfigError) as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
