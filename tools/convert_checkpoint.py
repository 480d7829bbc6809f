#!/usr/bin/env python
"""Write the weights of a checkpoint, and nothing else of it, as safetensors.

The result is a plain detector without optimizer or projections, which cannot hold code.
"""

import argparse
import sys
from pathlib import Path

import torch
from detectron2.utils.file_io import PathManager

from d2kd.files import sha256_of
from d2kd.weights_file import check_pin, read_weights, split_pin, write_safetensors


def convert(source: str, target: Path, half: bool) -> None:
    """Convert one file.

    Args:
        source: .pth, .pkl or .safetensors: a file, URL or `detectron2://` address, maybe pinned.
        target: written completely or not at all.
        half: write float tensors in fp16; d2kd reads them as fp32.

    Raises:
        ValueError: `source` is damaged, not the pinned file, or holds more than arrays.
    """
    path, pin = split_pin(source)
    path = PathManager.get_local_path(path)
    check_pin(path, pin)
    tensors = {k: torch.as_tensor(v) for k, v in read_weights(path)["model"].items()}
    if half:
        tensors = {k: v.half() if v.is_floating_point() else v for k, v in tensors.items()}
    write_safetensors(tensors, target)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("source", help="checkpoint to read")
    parser.add_argument("target", type=Path, help="name of the .safetensors file to write")
    parser.add_argument("--half", action="store_true", help="fp16, half the size")
    args = parser.parse_args()
    try:
        convert(args.source, args.target, args.half)
    except (ValueError, OSError, KeyError) as error:
        sys.exit(f"error: {error}")
    megabytes = args.target.stat().st_size / 1e6
    print(f"{args.target}: {megabytes:.1f} MB, sha256 {sha256_of(args.target)}")


if __name__ == "__main__":
    main()
