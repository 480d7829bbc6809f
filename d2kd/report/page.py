"""The page: tables, charts and pictures of runs in one file."""

import base64
import io
import json
import math
import os
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, List, Sequence, Tuple

import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from PIL import Image

from ..data.pixels import PixelError, read_pixels
from ..errors import ConfigError
from ..file_io import write_atomically
from ..text import plain
from .charts import ap_charts, curve_charts, run_charts
from .detection_charts import confusion_charts, detection_charts
from .doubts import doubts, teachers_of
from .exported import file_table, is_of_file, other_data
from .intervals import found_by
from .models import look_at_models
from .runs import RunFolder, different_keys, read_run
from .verdict import verdicts

_WIDEST = 1440  # px of a picture
_AP = ("AP", "AP50", "AP75", "APs", "APm", "APl")
_LONGEST = 2000  # characters of a value


def write_report(
    folders: Sequence[Path], output: Path, images: int = 4, last: bool = False
) -> List[str]:
    """Write one self-contained HTML page about runs, side by side.

    Args:
        folders: of runs that d2kd trained, complete or not, and of exported files' evaluations.
        output: the file.
        images: of the first run's DATASETS.TEST to draw detections on.
        last: look at the last checkpoints of the runs, not at the best.

    Returns:
        List[str]: the verdicts on distilled runs beside plain ones, with notes, which checkpoints
        were looked at, and what the runs lack, a sentence each, as the page shows it.

    Raises:
        ConfigError: a folder is not that of a run, or none is.
    """
    paths = list(dict.fromkeys(os.path.realpath(x) for x in folders))
    read = [read_run(Path(x), name) for x, name in zip(paths, _names(paths), strict=True)]
    runs, files = [x for x in read if not is_of_file(x)], [x for x in read if is_of_file(x)]
    if not runs:
        raise ConfigError(
            "All of these are evaluations of exported files: give a run's folder too."
        )
    judged, teachers = verdicts(runs), teachers_of(runs)
    for run in runs:
        found_by(run)
    warnings = [*doubts(runs, teachers), *other_data(runs, files)]
    pictures = look_at_models(runs, images, last)
    environment = Environment(
        loader=PackageLoader("d2kd.report"), autoescape=True, undefined=StrictUndefined,
        finalize=_plain_text,
    )  # fmt: skip
    text = environment.get_template("page.html.j2").render(
        runs=runs,
        verdicts=judged,
        warnings=warnings,
        rows=summary(runs, teachers),
        files=[x.name for x in files],
        file_rows=file_table(runs, files),
        curves=curve_charts(runs, teachers),
        detections=[*detection_charts(runs), *ap_charts(runs)],
        teachers=teachers,
        matrices=confusion_charts(runs),
        charts={run.name: run_charts(run) for run in runs},
        pictures=pictures,
        uri=lambda image: Markup(image_uri(image)),
        drawn={run.name: _drawn(run) for run in runs},
        keys=different_keys(runs),
        environment=_environment(runs),
        threads=torch.get_num_threads(),
        device="GPU" if torch.cuda.is_available() else "CPU",
        dump=_dump,
        shown=_shown,
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(output, lambda part: part.write_text(text, encoding="utf-8"))
    said = [text for verdict in judged for text in (verdict.text, *verdict.notes)]
    said += [f"warning: {text}" for text in warnings]
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


def summary(runs: Sequence[RunFolder], teachers: Sequence[str] = ()) -> Dict[str, List[str]]:
    """What is measured -> its value for each run, as text, "-" where it is not known."""

    def ap(run: RunFolder, key: str) -> str:
        value = run.results.get(key, math.nan)
        return _shown(value, "" if abs(value) > 1e6 else ".1f")

    def best(run: RunFolder, key: str) -> str:
        return _shown(run.found.best.get(key, math.nan) if run.found else math.nan, ".2f")

    def role(run: RunFolder) -> str:
        name = "distilled" if run.distilled else "plain"
        return "teacher" if run.name in teachers else name

    masks = [key for key in ("segm/AP", "segm/AP50", "segm/AP75")
             if any(key in run.results for run in runs)]  # fmt: skip
    rows: Dict[str, Callable[[RunFolder], str]] = {
        "role": role,
        "methods": lambda run: ", ".join(run.heads) or "none",
        **{key: partial(ap, key=f"bbox/{key}") for key in _AP},
        **{f"{key[5:]} of masks": partial(ap, key=key) for key in masks},
        "best F1": partial(best, key="F1"),
        **{f"{key} there": partial(best, key=key) for key in ("threshold", "precision", "recall")},
        "M parameters": lambda run: _shown(run.costs.get("M parameters", math.nan), ".2f"),
        "MB of weights": lambda run: _shown(run.costs.get("MB of weights", math.nan), ".1f"),
        "ms per image": lambda run: _shown(run.costs.get("ms per image", math.nan), ".1f"),
        "steps": lambda run: f"{run.steps:,}",
        "hours": lambda run: _shown(run.hours, ".2f"),
        "seed": lambda run: str(run.config.get("SEED", "-")),
    }
    return {key: [value(run) for run in runs] for key, value in rows.items()}


def _environment(runs: Sequence[RunFolder]) -> Dict[str, List[Any]]:
    """Versions, device and the like of each run: what run.json has as one value."""
    found = (item for run in runs for item in run.record.items())
    keys = dict.fromkeys(k for k, x in found if not isinstance(x, (dict, list)))
    return {key: [run.record.get(key, "-") for run in runs] for key in keys}


def _shown(value: float, form: str) -> str:
    return "-" if math.isnan(value) else format(value, form)


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
