"""`d2kd distill`."""

import json
from pathlib import Path
from typing import Any, Dict, Tuple

import click

from .base import debug_option, echo, echo_lines, refuse_options

_UNITS = {"s": 1, "m": 60, "h": 3600}


class _Duration(click.ParamType):
    name = "30m"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        text = str(value).strip().lower()
        try:
            seconds = float(text.rstrip("smh")) * _UNITS.get(text[-1:], 60)
        except ValueError:
            seconds = 0.0
        if not 0 < seconds < float("inf"):
            self.fail(f"{value!r} is no time: type 45s, 30m or 2h.", param, ctx)
        return seconds


@click.command("distill")
@click.argument("folder", type=click.Path())
@click.argument("options", nargs=-1, metavar="[KEY VALUE]...")
@click.option("--output", metavar="FOLDER", help="Default: output/NAME of the folder.")
@click.option("--time", "seconds", type=_Duration(), help="Of the whole: 30m, 2h.")
@click.option("--steps", type=click.IntRange(1), help="Of the student.")
@click.option("--epochs", type=click.FloatRange(0, min_open=True), help="Instead of --steps.")
@click.option("--teacher", default="", metavar="CONFIG", help="A run, a model-zoo name, or a "
              "config to train; default: one of own/.")  # fmt: skip
@click.option("--student", default="", metavar="CONFIG", help="Default: own/student.yaml.")
@click.option("--size", "--imgsz", "size", type=click.IntRange(32), metavar="PX",
              help="Shorter side of the images.")  # fmt: skip
@click.option("--batch", type=click.IntRange(1), help="Images of a step.")
@click.option("--lr", type=click.FloatRange(0, min_open=True), help="SOLVER.BASE_LR.")
@click.option("--device", metavar="NAME", help="MODEL.DEVICE: cpu, cuda, cuda:1.")
@click.option("--workers", type=click.IntRange(0), help="DATALOADER.NUM_WORKERS.")
@click.option("--val", type=click.FloatRange(0, 0.9, min_open=True), default=0.2, show_default=True,
              help="Share to validate on where no split is.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True)
@click.option("--no-plain", is_flag=True, help="Train no plain student to compare with.")
@click.option("--dry-run", is_flag=True, help="Print the plan, train nothing.")
@click.option("--overwrite", is_flag=True, help="Remove what an earlier plan wrote to --output.")
@click.option("--quiet", is_flag=True, help="What the stages print goes to console.txt alone.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as json; implies --quiet.")
@debug_option
def distill(folder: str, **given: Any) -> None:
    """From FOLDER, labelled images in any layout, to a distilled, exported student.

    The images are divided where no validation split is; teacher, plain and distilled student are
    trained, evaluated, compared in a report, and exported. Type the same again to go on.

    \b
    d2kd distill photos --time 30m
    d2kd distill photos --steps 600 SOLVER.EMA.DECAY 0.99
    """
    from .. import pipeline

    wishes = _wishes(folder, given)
    quiet = given["quiet"] or given["as_json"]
    say = (lambda _: None) if given["as_json"] else echo
    with pipeline.hold_plan(wishes):
        if given["overwrite"]:
            pipeline.remove_plan(wishes)
        plan = pipeline.open_plan(wishes, given["dry_run"], say)
        if not given["as_json"]:
            echo_lines(str(plan))
        if given["dry_run"]:
            return
        pipeline.run_plan(plan, say, quiet)
    found = pipeline.summary(plan)
    if given["as_json"]:
        click.echo(json.dumps(found))
        return
    _say_result(found)


def _say_result(found: Dict[str, Any]) -> None:
    reached = {name: f"{name} {ap}" for name, ap in found["AP"].items() if ap is not None}
    gain = ""
    if {"plain", "distilled"} <= reached.keys():
        gain = f" ({found['AP']['distilled'] - found['AP']['plain']:+.1f} over plain)"
    echo(f"box AP of the best checkpoints: {', '.join(reached.values()) or 'none'}{gain}")
    echo(f"{found['student']} in {found['minutes']} min; {', '.join(found['files'].values())}")
    echo(f"Next: {found['next']}")


def _wishes(folder: str, given: Any) -> Any:
    from ..pipeline import Wishes

    if sum(given[x] is not None for x in ("seconds", "steps", "epochs")) > 1:
        raise click.UsageError("--time, --steps and --epochs say the same: give one of them.")
    if given["overwrite"] and given["dry_run"]:
        raise click.UsageError("--dry-run removes nothing: leave --overwrite out.")
    refuse_options([given["teacher"], given["student"], *given["options"]])
    keys = {"lr": "SOLVER.BASE_LR", "device": "MODEL.DEVICE", "workers": "DATALOADER.NUM_WORKERS"}
    options: Tuple[str, ...] = given["options"]
    for name, key in keys.items():
        options += (key, str(given[name])) if given[name] is not None else ()
    return Wishes(
        folder=folder,
        output=given["output"] or str(Path("output", Path(folder).resolve().name)),
        student=given["student"],
        teacher=given["teacher"],
        seconds=given["seconds"] or 0.0,
        steps=given["steps"] or 0,
        epochs=given["epochs"] or 0.0,
        size=given["size"] or 0,
        batch=given["batch"] or 0,
        val=given["val"],
        seed=given["seed"],
        plain=not given["no_plain"],
        options=options,
    )
