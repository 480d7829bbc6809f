"""Sections of `gpu_check.py` that start commands, train, or write files."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import numpy as np
import torch
from detectron2.modeling import build_model
from PIL import Image

from d2kd.checkpoint import load_detector
from d2kd.config.loading import load_config
from d2kd.export import check_export, export_onnx, export_pt2, fit_image, open_exported
from d2kd.quickstart.digits import DigitsSpec, build_digits
from d2kd.quickstart.teacher import TEACHER

Row = Tuple[str, Dict[str, Any]]
ROOT = Path(__file__).resolve().parents[1]
SIZES = {False: DigitsSpec(num_train=1000, num_test=100), True: DigitsSpec(16, 4)}
STEPS = {False: 300, True: 2}


def command(words: List[str], data: str = "") -> str:
    """What it prints.

    Raises:
        RuntimeError: it fails; the message is its last line.
    """
    variables = {"DETECTRON2_DATASETS": data} if data else {}
    environment = {**os.environ, **variables, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *words], cwd=ROOT, env=environment, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
    if done.returncode:
        raise RuntimeError((done.stdout.strip() or f"exit code {done.returncode}").splitlines()[-1])
    return done.stdout


def tests(args: argparse.Namespace) -> Iterator[Row]:
    """The tests that need a GPU."""
    files = ["tests/engine/test_gpu.py", "tests/heads/test_no_sync.py"]
    text = command(["-m", "pytest", "-q", "-m", "gpu", *files])
    yield "pytest -m gpu", {"result": text.strip().splitlines()[-1]}


def distillation(args: argparse.Namespace) -> Iterator[Row]:
    """The quick start's student on digits, plain and distilled, in fp32 and in mixed precision."""
    mixed = [False] if args.device == "cpu" else [False, True]
    with tempfile.TemporaryDirectory() as folder:
        build_digits(Path(folder, "digits"), SIZES[args.tiny])
        for amp in mixed:
            for name in ("student", "distilled"):
                shown = f"{name}{', AMP' * amp}"
                yield shown, train(name, Path(folder), args, ["SOLVER.AMP.ENABLED", str(amp)])


def ranks(args: argparse.Namespace) -> Iterator[Row]:
    """As many ranks as there are GPUs, with NCCL; on the CPU two, with gloo."""
    count = torch.cuda.device_count() if args.device != "cpu" else 2
    if count < 2:
        yield "distilled", {"result": "this machine has one GPU: NCCL is not tried"}
        return
    options = ["SOLVER.IMS_PER_BATCH", str(4 * count)]
    with tempfile.TemporaryDirectory() as folder:
        build_digits(Path(folder, "digits"), SIZES[args.tiny])
        row = train("distilled", Path(folder), args, options, ["--num-gpus", str(count)])
        yield f"distilled, {count} ranks", row


def train(
    name: str, folder: Path, args: argparse.Namespace, options: List[str], more: List[str] = ()
) -> Dict[str, Any]:
    """A training of the quick start: AP, the last loss, skipped steps and seconds."""
    out, steps = folder / "-".join([name, *options]).replace(".", "_"), STEPS[args.tiny]
    if args.tiny and "SOLVER.IMS_PER_BATCH" not in options:
        options = [*options, "SOLVER.IMS_PER_BATCH", "4"]
    words = ["train_net.py", *more, "--config-file", f"configs/quickstart/{name}.yaml",
             "MODEL.DEVICE", args.device, "SOLVER.MAX_ITER", str(steps), "OUTPUT_DIR", str(out),
             "TEST.EVAL_PERIOD", "0", "DATALOADER.NUM_WORKERS", "0" if args.tiny else "4",
             *options]  # fmt: skip
    start = time.perf_counter()
    command(words, str(folder))
    seconds = time.perf_counter() - start
    rows = [json.loads(x) for x in (out / "metrics.json").read_text().splitlines()]
    last = {key: value for row in rows for key, value in row.items()}
    return {"steps": steps, "AP": round(last["bbox/AP"], 1), "loss": round(last["total_loss"], 3),
            "skipped": int(last.get("skipped_steps", 0)), "step ms": ms(rows),
            "seconds in all": round(seconds, 1)}  # fmt: skip


def ms(rows: List[Dict[str, Any]]) -> float | None:
    """The last of the medians of a step, milliseconds."""
    found = [row["time"] for row in rows if "time" in row]
    return round(1000 * found[-1], 1) if found else None


def export(args: argparse.Namespace) -> Iterator[Row]:
    """The quick start's teacher as files, made of a detector on the device."""
    cfg = load_config("configs/quickstart/teacher.yaml", [])
    cfg.MODEL.DEVICE = args.device
    detector = build_model(cfg)
    load_detector(detector, str(TEACHER), "teacher")
    with tempfile.TemporaryDirectory() as folder:
        build_digits(Path(folder, "digits"), SIZES[True])
        pictures = sorted(Path(folder, "digits", "test").glob("*.jpg"))
        images = [np.asarray(Image.open(x).convert("RGB")) for x in pictures]
        images = [x[..., ::-1] if cfg.INPUT.FORMAT == "BGR" else x for x in images]
        for kind, write in (("onnx", export_onnx), ("pt2", export_pt2)):
            path = Path(folder, f"teacher.{kind}")
            write(detector, path, size=(128, 128), input_format=cfg.INPUT.FORMAT)
            found = check_export(path, detector, images)
            yield f"{kind}, on the CPU", {
                "detections": found.detections, "missing": found.missing, "added": found.added,
                "px": float(f"{found.box_difference:.2g}"),
            }  # fmt: skip
        yield "onnx, on CUDA", on_cuda(Path(folder, "teacher.onnx"), images)


def on_cuda(path: Path, images: List[np.ndarray]) -> Dict[str, Any]:
    """The file in onnxruntime's CUDA, beside its CPU."""
    import onnxruntime

    provider = "CUDAExecutionProvider"
    if provider not in onnxruntime.get_available_providers():
        return {"result": "this onnxruntime has no CUDA (pip install onnxruntime-gpu)"}
    session = onnxruntime.InferenceSession(path, providers=[provider])
    exported = open_exported(path)
    gaps, counts = [], []
    for image in images:
        padded, _ = fit_image(image, exported.description)
        ours, theirs = session.run(None, {"image": padded}), exported.run(padded)
        counts.append(len(ours[0]) - len(theirs[0]))
        if not counts[-1]:
            gaps.append(float(np.abs(ours[0] - theirs[0]).max(initial=0)))
    return {"px": float(f"{max(gaps, default=0):.2g}"), "missing": -sum(x for x in counts if x < 0),
            "added": sum(x for x in counts if x > 0)}  # fmt: skip
