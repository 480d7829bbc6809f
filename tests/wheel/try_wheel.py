"""Build a wheel of this tree, install it into an empty environment, and use it there.

The environment has the newest setuptools, which has no `pkg_resources`, and none of this tree's
files. Run it with any Python from 3.10 to 3.13: `make test-wheel`, or another one by `--python`.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
INSTALL = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import setup_env
setup_env.install_wheel(Path(sys.prefix))
"""
DATA = """
import json
import numpy as np
from PIL import Image
from pathlib import Path
folder = Path("cells")
folder.mkdir(exist_ok=True)
rng = np.random.default_rng(0)
images = [{"id": i, "file_name": f"{i}.png", "width": 64, "height": 64} for i in range(8)]
boxes = [{"id": i + 1, "image_id": i, "category_id": 1, "bbox": [8, 8, 32, 32], "area": 1024,
          "iscrowd": 0} for i in range(8)]
for i in range(8):
    pixels = rng.integers(0, 99, (64, 64, 3), dtype=np.uint8)
    pixels[8:40, 8:40] = 250
    Image.fromarray(pixels).save(folder / f"{i}.png")
data = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "square"}]}
for split in ("train", "val"):
    (folder / f"{split}.json").write_text(json.dumps(data))
"""
SMALL = ["MODEL.TIMM.CHECKPOINT", "", "INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST",
         "64", "SOLVER.IMS_PER_BATCH", "2", "SOLVER.MAX_ITER", "2", "TEST.EVAL_PERIOD", "0",
         "SOLVER.BEST_METRIC", "", "SOLVER.WARMUP_ITERS", "0", "DATALOADER.NUM_WORKERS",
         "0"]  # fmt: skip


def main() -> None:
    """Build, install, try."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", default=sys.executable, help="the environment's interpreter")
    parser.add_argument("--keep", type=Path, help="folder of the environment, which then stays")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary)
        python = install(build(Path(temporary)), args.python, folder.resolve() / "venv")
        try_it(python, Path(temporary) / "work")
    print("the wheel works")


def build(folder: Path) -> Path:
    """The wheel of this tree; of a copy of it, so that no older build/ gets in."""
    source = folder / "source"
    for name in ("d2kd", "configs"):
        shutil.copytree(ROOT / name, source / name)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, source)
    return next(folder.glob("d2kd-*.whl"))


def install(wheel: Path, base: str, venv: Path) -> Path:
    """An environment with the wheel; its interpreter."""
    run(base, "-m", "venv", "--clear", venv)
    python = venv / "bin" / "python"
    pip = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    pinned = (ROOT / "requirements" / "base.txt").read_text().splitlines()
    lines = [line for line in pinned if not line.startswith(("setuptools", "#")) and line.strip()]
    run(*pip, *lines)
    run(python, "-c", INSTALL, ROOT / "tools")
    run(*pip, f"{wheel}[timm]")
    run(*pip, "--upgrade", "setuptools")
    versions = "import sys, setuptools; print(sys.version, 'setuptools', setuptools.__version__)"
    print(run(python, "-c", versions))
    return python


def try_it(python: Path, work: Path) -> None:
    """Help, the methods, and a teacher and a student of two steps."""
    work.mkdir()
    d2kd = python.parent / "d2kd"
    data = ["--data", "cells", *SMALL]
    run(python, "-c", DATA, cwd=work)
    run(d2kd, "--version", cwd=work)
    run(d2kd, "--help", cwd=work)
    run(d2kd, "methods", cwd=work)
    run(d2kd, "config", "COCO-Detection/retinanet_R_50_FPN_1x.yaml", cwd=work)
    run(d2kd, "train", "own/teacher.yaml", "--output", "teacher", *data, cwd=work)
    teacher = ["--teacher", "teacher", "--output", "distilled"]
    run(d2kd, "train", "own/student.yaml", *teacher, *data, cwd=work)
    assert (work / "distilled" / "model_final.pth").is_file()


def run(*command: object, cwd: Path | None = None) -> str:
    """The output of a command away from this tree; it is shown where it fails."""
    words = [str(word) for word in command]
    print("+", " ".join(words)[:160], flush=True)
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(words, cwd=cwd or tempfile.gettempdir(), env=env, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, check=False)  # fmt: skip
    if done.returncode or "pkg_resources" in done.stdout:
        sys.exit(f"{done.stdout}\nexit code {done.returncode}")
    return done.stdout


if __name__ == "__main__":
    main()
