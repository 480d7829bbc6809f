#!/usr/bin/env python
"""Corruptions, attacks, another domain and errors of several models, from one yaml.

    python tools/evaluate_robustness.py evaluations/digits_teacher.yaml

Killed and started again, it goes on with what is not finished. report.md, report.json and
report.png are written into its output folder at the end, and with --report at any time.
"""

import argparse
import runpy
import sys

from d2kd.robustness import collect, load_plan, run_plan, write_report


def main() -> None:
    """Run and report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("plan", help="yaml file")
    parser.add_argument(
        "--quick", action="store_true", help="four corruptions at severity 3, 100 images"
    )
    parser.add_argument(
        "--report", action="store_true", help="report what is finished, run nothing"
    )
    parser.add_argument(
        "--import", dest="imports", action="append", default=[], metavar="FILE",
        help="Python file of yours that registers detectors or data sets",
    )  # fmt: skip
    args = parser.parse_args()
    try:
        for path in args.imports:
            runpy.run_path(path, run_name="__d2kd_import__")
        plan = load_plan(args.plan, args.quick)
        if not args.report:
            run_plan(plan)
        print(write_report(plan, collect(plan)))
    except (ValueError, TypeError, FileNotFoundError) as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
