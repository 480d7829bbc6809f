"""`d2kd study`: methods and seeds, run after run."""

import sys
from typing import TYPE_CHECKING, Any, List, Tuple

import click

from .base import debug_option, echo_lines
from .executor import build_executor, with_executor

if TYPE_CHECKING:
    from ..study import Study


@click.command()
@click.argument("plan", type=click.Path())
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True,
              help="Trainings, and then evaluations, at the same time.")  # fmt: skip
@click.option("--report", is_flag=True, help="Report what is finished, run nothing.")
@click.option("--tune", is_flag=True, help="Run the tries of its section tune, nothing else.")
@click.option("--import", "imports", multiple=True, metavar="FILE",
              help="Python file of yours; those that PLAN imports must be named here.")  # fmt: skip
@with_executor
@debug_option
def study(
    plan: str, jobs: int, report: bool, tune: bool, imports: Tuple[str, ...],
    executor: str | None, slurm: Tuple[str, ...],
) -> None:  # fmt: skip
    """Run and report the methods and seeds of PLAN, a yaml.

    Every training is a process of its own. Killed and started again, a study goes on with what is
    not finished. report.md, report.json and report.png are written into its folder at the end, and
    with --report at any time; what was not run is listed with its command. With `robustness` in the
    yaml, finished runs are then evaluated on corrupted images, other data sets and attacks, and by
    types of errors. With `tune` in the yaml, --tune first tries options on validation images and
    keeps the best for the rows that ask for them. The exit code is 1 if a run failed. With
    --executor, jobs go on if this command is killed, and the same command finds them.

    \b
    d2kd study studies/digits/responses.yaml --jobs 2
    """
    from .. import study as room
    from ..engine.command_line import import_files
    from ..text import shell

    if tune and report:
        raise click.UsageError("--tune runs trainings and --report none: give one of them.")
    found = room.load_study(plan)
    room.check_imports(found, shell("d2kd", "study", plan), imports)
    import_files(imports)
    where = None if report else build_executor(executor, slurm, found.output)
    if tune:
        _exit_with(room.tune_study(found, jobs, where))
        echo_lines("\n".join(room.table_of_tries(found)))
        return
    if not report:
        room.check_tuned(found)
    failed = [] if report else room.run_plan(found, jobs, where)
    found = found.with_what_was_found()
    if found.robustness and not report:
        failed += _evaluate(found, jobs, where)
    more = room.collect_more(found) | (room.collect_robustness(found) if found.robustness else {})
    echo_lines(room.write_report(found, room.collect(found), more))
    _exit_with(failed)


def _evaluate(found: "Study", jobs: int, where: Any) -> List[str]:
    """Run the evaluations; what stops them must not keep the report back."""
    from ..errors import message
    from ..study import run_robustness

    try:
        run_robustness(found, jobs, where)
    except (OSError, RuntimeError, ValueError) as error:
        return [f"robustness: {message(error)}"]
    return []


def _exit_with(failed: List[str]) -> None:
    if failed:
        sys.exit("\n".join(["These runs failed:", *failed]))
