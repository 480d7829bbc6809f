"""`d2kd reproduce`: published pairs of teacher and student."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, List, Optional, Tuple

import click

from .base import SETTINGS, debug_option, echo, refuse_options
from .output import Output

if TYPE_CHECKING:
    from ..reproduce import Pair

_FOLDER = Path("output/reproduce")


@click.command(context_settings=SETTINGS)
@click.argument("name", required=False)
@click.argument("options", nargs=-1, metavar="[KEY VALUE]...")
@click.option("--row", help="Where NAME is the report.json of a study: the row to train again.")
@click.option("--seed", type=int, default=1, show_default=True, help="Of that row.")
@click.option("--list", "lists", is_flag=True, help="The pairs, with their published AP.")
@click.option("--dry-run", is_flag=True, help="Every stage with two steps and eight images.")
@click.option("--num-gpus", type=click.IntRange(1), default=1, show_default=True,
              help="Of every training.")  # fmt: skip
@click.option("--seeds", type=click.IntRange(1), default=1, show_default=True,
              help="How many: 1, 2 and so on.")  # fmt: skip
@click.option("--output", type=Output(folder=True), help=f"Default: {_FOLDER}, for all pairs.")
@debug_option
def reproduce(
    name: Optional[str], options: Tuple[str, ...], row: Optional[str], seed: int, lists: bool,
    dry_run: bool, num_gpus: int, seeds: int, output: Optional[Path],
) -> None:  # fmt: skip
    """Train a published pair again: teacher, plain student, distilled student.

    NAME is a config of configs/distill. Before it starts it says what it needs and takes; at the
    end, whether the AP agree with those published. Killed and started again it goes on. Pairs that
    have a teacher or a plain student in common train it once. A dry run trains teachers too,
    wherever their weights come from; without NAME it goes through all pairs.

    With --row, NAME is the report.json of a study: one run of it is trained again and its metric
    compared, bit by bit where code, data and the kind of CPU are those of the record.

    \b
    d2kd reproduce --list
    d2kd reproduce gfl_R_50_FPN_crosskd_from_gfl_R_101_FPN_1x --num-gpus 8
    d2kd reproduce docs/results/digits_features.json --row PKD --seed 1
    """
    from ..reproduce import load_pair, load_pairs

    refuse_options(options)
    if lists:
        for pair in load_pairs().values():
            echo(f"{pair.name}: teacher {pair.teacher}; published {pair.published}")
        return
    if not name and not dry_run:
        raise click.UsageError("Give the NAME of a pair, or --list.")
    if name and row:
        _repeat(Path(name), row, seed, output or _FOLDER / "rows" / Path(name).stem)
        return
    folder = output or (_FOLDER / "dry_run" if dry_run else _FOLDER)
    count = list(range(1, seeds + 1))
    pairs = [load_pair(name)] if name else list(load_pairs().values())
    if dry_run:
        _exit_with(_dry_run(pairs, folder, options))
    else:
        _exit_with(_run(pairs[0], folder, count, num_gpus, options))


def _repeat(report: Path, row: str, seed: int, folder: Path) -> None:
    from ..reproduce import load_row, repeat_row

    for line in repeat_row(*load_row(report, row, seed, folder), row, seed):
        echo(line)


def _run(
    pair: "Pair", folder: Path, seeds: List[int], gpus: int, options: Tuple[str, ...]
) -> List[str]:
    from ..reproduce import check_needs, cost_of, plan_of, run_stages, verdict_of

    study = plan_of(pair, folder, seeds, gpus, options)
    cost = cost_of(pair, study)
    for line in [*check_needs(pair, folder, cost), f"cost: {cost}"]:
        echo(line)
    failed = run_stages(study)
    for line in verdict_of(pair, study):
        echo(line)
    return failed


def _dry_run(pairs: "List[Pair]", folder: Path, options: Tuple[str, ...]) -> List[str]:
    from ..reproduce import plan_of, prepare_dry_run, reason_against_dry_run, run_stages, verdict_of

    given, failed, done = [*prepare_dry_run(folder), *options], [], 0
    for pair in pairs:
        if reason := reason_against_dry_run(pair):
            echo(f"{pair.name}: no dry run: {reason}")
            continue
        study = plan_of(pair, folder, [1], 1, given, trains_all=True)
        errors = run_stages(study)
        failed += errors
        done += not errors
        if len(pairs) == 1:
            for line in verdict_of(pair, study, dry=True):
                echo(line)
    echo(f"{done} of {len(pairs)} pairs went through every stage")
    return failed


def _exit_with(failed: List[str]) -> None:
    if failed:
        sys.exit("\n".join(["These stages failed:", *failed]))
