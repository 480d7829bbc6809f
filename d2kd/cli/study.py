"""`d2kd study`: methods and seeds, run after run."""

import sys
from typing import Tuple

import click

from .base import debug_option, echo_lines


@click.command()
@click.argument("plan", type=click.Path())
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True,
              help="Trainings, and then evaluations, at the same time.")  # fmt: skip
@click.option("--report", is_flag=True, help="Report what is finished, run nothing.")
@click.option("--import", "imports", multiple=True, metavar="FILE",
              help="Python file of yours; those that PLAN imports must be named here.")  # fmt: skip
@debug_option
def study(plan: str, jobs: int, report: bool, imports: Tuple[str, ...]) -> None:
    """Run and report the methods and seeds of PLAN, a yaml.

    Every training is a process of its own. Killed and started again, a study goes on with what is
    not finished. report.md, report.json and report.png are written into its folder at the end, and
    with --report at any time; what was not run is listed with its command. With `robustness` in the
    yaml, finished runs are then evaluated on corrupted images, other data sets and attacks, and by
    types of errors. The exit code is 1 if a run failed.

    \b
    d2kd study studies/digits/responses.yaml --jobs 2
    """
    from ..engine.main import import_files
    from ..study import (
        check_imports,
        collect,
        collect_more,
        collect_robustness,
        load_study,
        run_robustness,
        run_study,
        write_report,
    )

    found = load_study(plan)
    check_imports(found, plan, imports)
    import_files(imports)
    failed = [] if report else run_study(found, jobs)
    if found.robustness and not report:
        run_robustness(found, jobs)
    more = collect_more(found) | (collect_robustness(found) if found.robustness else {})
    echo_lines(write_report(found, collect(found), more))
    if failed:
        sys.exit("\n".join(["These runs failed:", *failed]))
