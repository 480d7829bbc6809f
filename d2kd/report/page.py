"""The page: tables, charts and pictures of runs in one file."""

import base64
import io
import json
import os
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure
from PIL import Image
from torch import nn

from ..checkpoint import last_checkpoint, load_detector
from ..config.loading import load_config
from ..data import register_custom_datasets
from ..errors import ConfigError
from ..file_io import write_atomically
from ..inference.detections import detect, draw_detections, truth_of
from ..inference.distillation_maps import picture_batch
from ..inference.predict import build_student
from ..inference.speed import measure_inference
from .charts import run_charts, shared_charts
from .runs import RunFolder, different_keys, read_run

_WIDEST = 1440  # px of a picture
_SPEED_IMAGES, _SPEED_ROUNDS = 10, 3


def write_report(folders: Sequence[Path], output: Path, images: int = 4) -> None:
    """Write one self-contained HTML page about runs, side by side.

    Args:
        folders: of runs that d2kd trained.
        output: the file.
        images: of the first run's DATASETS.TEST to draw detections on.

    Raises:
        ConfigError: a folder is not that of a run.
    """
    shared = os.path.commonpath([x.resolve().parent for x in folders])
    names = [os.path.relpath(x.resolve(), shared) for x in folders]
    runs = [read_run(folder, name) for folder, name in zip(folders, names, strict=True)]
    models, pictures = _look_at_models(runs, images)
    environment = Environment(
        loader=PackageLoader("d2kd.report"), autoescape=True, undefined=StrictUndefined
    )
    text = environment.get_template("page.html.j2").render(
        runs=runs,
        rows=summary(runs, models),
        shared=shared_charts(runs),
        charts={run.name: run_charts(run) for run in runs},
        pictures=pictures,
        drawn={run.name: _drawn(run) for run in runs},
        keys=different_keys(runs),
        threads=torch.get_num_threads(),
        device="GPU" if torch.cuda.is_available() else "CPU",
        dump=lambda value: json.dumps(value, indent=1),
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(output, lambda part: part.write_text(text, encoding="utf-8"))


def summary(
    runs: Sequence[RunFolder], models: Dict[str, Tuple[float, float]]
) -> List[Dict[str, Any]]:
    """A row for each run: numbers as text, "-" where they are not known."""

    def ap(run: RunFolder, key: str) -> str:
        return f"{run.results[f'bbox/{key}']:.1f}" if f"bbox/{key}" in run.results else "-"

    rows = []
    for run in runs:
        millions, ms = models.get(run.name, (0.0, 0.0))
        rows.append({
            "run": run.name,
            **{key: ap(run, key) for key in ("AP", "AP50", "AP75", "APs", "APm", "APl")},
            "M parameters": f"{millions:.2f}" if millions else "-",
            "ms per image": f"{ms:.1f}" if ms else "-",
            "steps": f"{run.steps:,}",
            "hours": f"{run.hours:.2f}",
            "seed": str(run.config.get("SEED", "-")),
            "methods": ", ".join(run.config.get("DISTILL.HEADS") or ()) if run.distils else "none",
        })  # fmt: skip
    return rows


def _look_at_models(
    runs: Sequence[RunFolder], images: int
) -> Tuple[Dict[str, Tuple[float, float]], List[str]]:
    """Millions of parameters and milliseconds per image by run, and pictures of detections."""
    models: Dict[str, nn.Module] = {}
    first: Optional[Tuple[CfgNode, List[dict]]] = None
    for run in runs:
        try:
            run_cfg = load_config(str(run.folder), [])
            register_custom_datasets(run_cfg)
            detector = build_student(run_cfg)
            load_detector(detector, last_checkpoint(str(run.folder)), str(run.folder))
            first = first or (run_cfg, picture_batch(run_cfg, max(images, _SPEED_IMAGES)))
        except (ConfigError, ValueError, OSError) as error:
            run.missing.append(f"Speed and detections: {error}")
            continue
        models[run.name] = detector
    if first is None:
        return {}, []
    cfg, batch = first
    inputs = [{"image": x["image"]} for x in batch[:_SPEED_IMAGES]]
    times = measure_inference(list(models.values()), inputs, _SPEED_ROUNDS)
    found = {name: sum(p.numel() for p in m.parameters()) / 1e6 for name, m in models.items()}
    numbers = {name: (found[name], ms) for name, ms in zip(models, times, strict=True)}
    classes = MetadataCatalog.get(cfg.DATASETS.TEST[0]).get("thing_classes", [])
    return numbers, [_compare(x, models, cfg.INPUT.FORMAT, classes) for x in batch[:images]]


def _compare(
    record: dict, models: Dict[str, nn.Module], format: str, classes: Sequence[str]
) -> str:
    image = record["image"]
    panels = {"ground truth": truth_of(record)}
    panels.update({name: detect(model, image) for name, model in models.items()})
    pixels = image.permute(1, 2, 0).numpy().astype(np.uint8)
    rgb = pixels[..., ::-1] if format == "BGR" else pixels
    return figure_uri(draw_detections(np.ascontiguousarray(rgb), panels, classes))


def figure_uri(figure: Figure) -> str:
    """A figure as a data URI."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return image_uri(Image.open(buffer))


def image_uri(image: Image.Image) -> str:
    """A picture, made smaller where it is very wide, as a data URI."""
    if image.width > _WIDEST:
        image = image.resize((_WIDEST, round(image.height * _WIDEST / image.width)))
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _drawn(run: RunFolder) -> List[Tuple[str, str]]:
    """Pictures that the training drew: title, data URI."""
    return [
        (f"{kind}: {path.stem}", image_uri(Image.open(path)))
        for kind, files in run.pictures.items()
        for path in files
    ]
