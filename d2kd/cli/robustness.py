"""`d2kd robustness`: corrupted images, other data sets, attacks and errors, model by model."""

from pathlib import Path
from typing import Tuple

import click

from ..errors import ConfigError
from .base import debug_option, echo, echo_lines
from .executor import build_executor, with_executor
from .output import Output


@click.command()
@click.argument("sources", nargs=-1, required=True, metavar="PLAN | RUNS...",
                type=click.Path(path_type=Path))  # fmt: skip
@click.option("--output", type=Output(), metavar="FOLDER",
              help="For RUNS; default: output/robustness.")  # fmt: skip
@click.option("--quick", is_flag=True, help="Four corruptions at severity 3, 100 images.")
@click.option("--report", is_flag=True, help="Report what is finished, run nothing.")
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True,
              help="Evaluations at the same time, spread over the GPUs.")  # fmt: skip
@click.option("--import", "imports", multiple=True, metavar="FILE",
              help="Python file of yours that registers detectors or data sets.")  # fmt: skip
@with_executor
@debug_option
def robustness(
    sources: Tuple[Path, ...], output: Path | None, quick: bool, report: bool,
    jobs: int, imports: Tuple[str, ...], executor: str | None, slurm: Tuple[str, ...],
) -> None:  # fmt: skip
    """Compare models under corruptions and attacks, and by errors.

    PLAN is a yaml that names models, corruptions, other data sets and attacks. With the folders of
    RUNS instead, their best checkpoints get all corruptions, the attacks and the errors; the first
    is the baseline. Killed and started again, it goes on with what is not finished. With
    --executor, jobs go on if this command is killed, and the same command waits for them.

    \b
    d2kd robustness output/student output/distilled output/teacher --quick
    """
    from ..engine.command_line import import_files
    from ..robustness import collect, load_plan, plan_of_runs, run_plan, write_report

    import_files(imports)
    if all(source.is_dir() for source in sources):
        plan = plan_of_runs(sources, output or Path("output/robustness"), quick)
    elif len(sources) == 1 and output is None:
        plan = load_plan(str(sources[0]), quick)
    else:
        raise ConfigError("give one yaml, whose output is in it, or the folders of runs.")
    where = None if report else build_executor(executor, slurm, plan.output)
    if not report:
        run_plan(plan, jobs, imports, where)
    echo_lines(write_report(plan, collect(plan)))
    echo(f"wrote {plan.output / 'report.md'}")
