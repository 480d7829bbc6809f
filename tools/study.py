#!/usr/bin/env python
"""Run a matrix of methods and seeds from one yaml, and report it.

    python tools/study.py studies/digits/responses.yaml --jobs 2

Every training is a process of its own. Killed and started again, a study goes on with what is not
finished. report.md, report.json and report.png are written into its folder at the end, and with
--report at any time; what was not run is listed with its command. With `robustness` in the yaml,
finished runs are then evaluated on corrupted images, other data sets and attacks, and by types of
errors, too.
"""

import argparse
import sys

from d2kd.engine.main import import_files
from d2kd.study import (
    collect,
    collect_more,
    collect_robustness,
    load_study,
    run_robustness,
    run_study,
    write_report,
)


def main() -> None:
    """Run and report; exits with 1 if a run failed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("study", help="yaml file")
    parser.add_argument(
        "--jobs", type=int, default=1, help="trainings, and then evaluations, at the same time"
    )
    parser.add_argument(
        "--report", action="store_true", help="report what is finished, run nothing"
    )
    args = parser.parse_args()
    try:
        study = load_study(args.study)
        import_files(study.imports)
        failed = [] if args.report else run_study(study, args.jobs)
        if study.robustness and not args.report:
            run_robustness(study, args.jobs)
        more = collect_more(study) | (collect_robustness(study) if study.robustness else {})
        print(write_report(study, collect(study), more))
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    if failed:
        sys.exit("\n".join(["These runs failed:", *failed]))


if __name__ == "__main__":
    main()
