"""`d2kd reproduce`: published pairs of teacher and student, and rows of studies."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, List, Optional, Sequence, Tuple

import click

from ..errors import ConfigError
from .base import SETTINGS, debug_option, echo, refuse_options
from .output import Output

if TYPE_CHECKING:
    from ..reproduce import Pair

_FOLDER = Path("output/reproduce")
_TEACHER = ("DISTILL.TEACHER.CONFIG_FILES", "DISTILL.TEACHER.WEIGHTS")


@click.command(context_settings=SETTINGS)
@click.argument("name", required=False)
@click.argument("options", nargs=-1, metavar="[KEY VALUE]...")
@click.option("--list", "lists", is_flag=True, help="The pairs, with their published AP.")
@click.option("--estimate", is_flag=True, help="What it needs and costs; nothing is started.")
@click.option("--dry-run", is_flag=True, help="Every stage with two steps and eight images.")
@click.option("--num-gpus", type=click.IntRange(1), help="Of every training.  [default: 1]")
@click.option("--seeds", type=click.IntRange(1), help="How many: 1, 2 and so on.  [default: 1]")
@click.option("--row", help="Where NAME is the report.json of a study: the row to train again.")
@click.option("--seed", type=int, help="Of that row.")
@click.option("--import", "imports", multiple=True, metavar="FILE",
              help="Python file of yours; those that the report's study imports.")  # fmt: skip
@click.option("--output", type=Output(folder=True), help=f"Default: below {_FOLDER}.")
@debug_option
def reproduce(name: Optional[str], output: Optional[Path], lists: bool, **given: Any) -> None:
    """Train a published pair again: teacher, MasKD's tokens, plain student, distilled student.

    NAME is a config of configs/distill. Before it starts it says what it needs and takes; at the
    end, whether the AP agree with those published; the exit code is 1 if not. Killed and started
    again it goes on. Pairs that have a teacher or a plain student in common train it once. In a dry
    run published teachers have random weights; those that a recipe trains are trained. Without
    NAME it goes through all pairs.

    With --row, NAME is the report.json of a study: one run of it is trained again and its metric
    compared, bit by bit where code, data and the kind of CPU are those of the record.

    \b
    d2kd reproduce --list
    d2kd reproduce gfl_R_50_FPN_crosskd_from_gfl_R_101_FPN_1x --num-gpus 8
    d2kd reproduce docs/results/digits_features.json --row PKD --seed 1
    """
    from ..reproduce import load_pair, load_pairs

    refuse_options(given["options"])
    if lists:
        for pair in load_pairs().values():
            echo(f"{pair.name}: teacher {pair.teacher_config}; published {pair.published}")
        return
    _check(name, given)
    if name and given["row"]:
        _exit_with(_repeat(Path(name), given["row"], given["seed"], given["imports"], output))
        return
    pairs = [load_pair(name)] if name else list(load_pairs().values())
    gpus, options = given["num_gpus"] or 1, given["options"]
    if given["dry_run"]:
        _exit_with(_dry_run(pairs, output or _FOLDER, gpus, options))
        return
    seeds = list(range(1, (given["seeds"] or 1) + 1))
    _exit_with(_run(pairs[0], output or _FOLDER, seeds, gpus, options, given["estimate"]))


def _check(name: Optional[str], given: Any) -> None:
    """Refuse what would not be read."""
    if given["row"] is not None:
        needed, unread = ["seed"], ["options", "dry_run", "estimate", "num_gpus", "seeds"]
    else:
        needed, unread = [], ["seed", "imports"] + ["seeds", "estimate"] * given["dry_run"]
    if given["row"] is None and (name or "").endswith(".json"):
        raise click.UsageError(f"{name} is a report: add --row ROW --seed SEED.")
    if not name and (given["row"] is not None or not given["dry_run"]):
        raise click.UsageError("Give the NAME of a pair, or --list.")
    for key in given["options"][::2]:
        if given["dry_run"] and key in _TEACHER:
            raise click.UsageError(f"{key} does not go with --dry-run, which has its own teachers.")
    for key in needed:
        if given[key] is None:
            raise click.UsageError(f"--row needs --{key}.")
    mode = "--row" if given["row"] is not None else "--dry-run" if given["dry_run"] else "a pair"
    for key in unread:
        if given[key]:
            word = {"options": "KEY VALUE", "imports": "--import"}.get(key, f"--{key}")
            raise click.UsageError(f"{word.replace('_', '-')} does not go with {mode}.")


def _repeat(
    path: Path, row: str, seed: int, imports: Sequence[str], output: Optional[Path]
) -> List[str]:
    from ..reproduce import BEYOND, Report, folder_of_report, plan_of_row, repeat_row
    from ..study import check_imports
    from ..text import shell

    report = Report(path)
    study = plan_of_row(
        report, path, row, seed, output or folder_of_report(report, _FOLDER / "rows")
    )
    check_imports(study, shell("d2kd", "reproduce", path, "--row", row, "--seed", seed), imports)
    lines = []
    for line in repeat_row(study, report, row, seed):
        echo(line)
        lines.append(line)
    return [line for line in lines if BEYOND in line]


def _run(
    pair: "Pair", folder: Path, seeds: List[int], gpus: int, options: Tuple[str, ...], asks: bool
) -> List[str]:
    from ..reproduce import check_needs, cost_of, plan_of, run_stages, verdict_of

    study = plan_of(pair, folder, seeds, gpus, options)
    cost = cost_of(pair, study)
    echo(f"still to do: {cost}")
    try:
        for line in check_needs(pair, folder, cost, options):
            echo(line)
    except ConfigError as error:
        if not asks:
            raise
        echo(f"missing: {error}")
    if asks:
        return []
    failed = run_stages(study)
    lines, agrees = verdict_of(pair, study, options)
    for line in lines:
        echo(line)
    return failed or ([] if agrees else [f"{pair.name} does not agree with what was published"])


def _dry_run(pairs: "List[Pair]", output: Path, gpus: int, options: Tuple[str, ...]) -> List[str]:
    from ..reproduce import go_through, new_dry_run, reason_against_dry_run

    failed, done = [], 0
    with new_dry_run(output, gpus) as (folder, given):
        for pair in pairs:
            if reason := reason_against_dry_run(pair):
                echo(f"{pair.name}: no dry run: {reason}")
                continue
            errors, lines = go_through(pair, folder, gpus, [*given, *options])
            failed += errors
            done += not errors
            for line in lines if len(pairs) == 1 else ():
                echo(line)
    echo(f"{done} of {len(pairs)} pairs went through every stage in {folder}; the AP mean nothing")
    return failed


def _exit_with(failed: List[str]) -> None:
    if failed:
        sys.exit("\n".join(["Failed:", *failed]))
