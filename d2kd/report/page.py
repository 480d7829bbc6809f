"""The page: tables, charts and pictures of runs in one file."""

import base64
import io
import json
import math
import os
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from matplotlib.figure import Figure
from PIL import Image

from ..data.pixels import PixelError, read_pixels
from ..file_io import write_atomically
from ..text import plain
from .charts import run_charts, shared_charts
from .models import Models, look_at_models
from .runs import RunFolder, different_keys, read_run
from .verdict import verdicts

_WIDEST = 1440  # px of a picture
_LONGEST = 2000  # characters of a value


def write_report(
    folders: Sequence[Path], output: Path, images: int = 4, last: bool = False
) -> List[str]:
    """Write one self-contained HTML page about runs, side by side.

    Args:
        folders: of runs that d2kd trained, complete or not.
        output: the file.
        images: of the first run's DATASETS.TEST to draw detections on.
        last: look at the last checkpoints of the runs, not at the best.

    Returns:
        List[str]: the verdicts on distilled runs beside plain ones, with notes, which checkpoints
        were looked at, and what the runs lack, a sentence each, as the page shows it.

    Raises:
        ConfigError: a folder is not that of a run.
    """
    paths = list(dict.fromkeys(os.path.realpath(x) for x in folders))
    runs = [read_run(Path(x), name) for x, name in zip(paths, _names(paths), strict=True)]
    judged = verdicts(runs)
    models = look_at_models(runs, images, last)
    environment = Environment(
        loader=PackageLoader("d2kd.report"), autoescape=True, undefined=StrictUndefined,
        finalize=_plain_text,
    )  # fmt: skip
    text = environment.get_template("page.html.j2").render(
        runs=runs,
        verdicts=judged,
        rows=summary(runs, models),
        shared=shared_charts(runs),
        charts={run.name: run_charts(run) for run in runs},
        pictures=[Markup(figure_uri(x)) for x in models.pictures],
        drawn={run.name: _drawn(run) for run in runs},
        keys=different_keys(runs),
        threads=torch.get_num_threads(),
        device="GPU" if torch.cuda.is_available() else "CPU",
        dump=_dump,
        shown=_shown,
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(output, lambda part: part.write_text(text, encoding="utf-8"))
    said = [text for verdict in judged for text in (verdict.text, *verdict.notes)]
    missing = [f"{run.name}: {text}" for run in runs for text in run.missing]
    looked = [f"{run.name}: {run.checkpoint}" for run in runs if run.checkpoint]
    return [plain(text, _LONGEST) for text in (*said, *looked, *missing)]


def _names(paths: Sequence[str]) -> List[str]:
    """What tells the folders apart, fit to be shown; no two are alike."""
    shared = os.path.commonpath([os.path.dirname(x) for x in paths])
    names: List[str] = []
    for path in paths:
        name = plain(os.path.relpath(path, shared))
        while name in names:
            name += "'"
        names.append(name)
    return names


def _plain_text(value: Any) -> Any:
    """Whatever the template shows, but for what is markup already."""
    return value if isinstance(value, Markup) else plain(value, _LONGEST)


def _dump(record: Dict[str, Any]) -> Markup:
    try:
        return escape(json.dumps(record, indent=1, default=str))
    except RecursionError:
        return escape(plain(record, _LONGEST))


def summary(runs: Sequence[RunFolder], models: Models) -> List[Dict[str, Any]]:
    """A row for each run: numbers as text, "-" where they are not known."""

    def ap(run: RunFolder, key: str) -> str:
        value = run.results.get(f"bbox/{key}", math.nan)
        return _shown(value, "" if abs(value) > 1e6 else ".1f")

    rows = []
    for run in runs:
        rows.append({
            "run": run.name,
            **{key: ap(run, key) for key in ("AP", "AP50", "AP75", "APs", "APm", "APl")},
            "M parameters": _shown(models.millions.get(run.name, math.nan), ".2f"),
            "ms per image": _shown(models.milliseconds.get(run.name, math.nan), ".1f"),
            "steps": f"{run.steps:,}",
            "hours": _shown(run.hours, ".2f"),
            "seed": str(run.config.get("SEED", "-")),
            "methods": ", ".join(run.heads) or "none",
        })  # fmt: skip
    return rows


def _shown(value: float, form: str) -> str:
    return "-" if math.isnan(value) else format(value, form)


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


def _drawn(run: RunFolder) -> List[Tuple[str, Markup]]:
    """Pictures that the training drew: title, data URI."""
    drawn = []
    for kind, files in run.pictures.items():
        for path in files:
            try:
                image = Image.fromarray(read_pixels(path, "RGB"))
            except PixelError as error:
                reason = str(error).removeprefix(f"{path} cannot be read: ")
                run.missing.append(f"{kind}/{path.name} cannot be read: {plain(reason)}")
            else:
                drawn.append((f"{kind}: {path.stem}", Markup(image_uri(image))))
    return drawn
