"""Steps of the same time: rows that train for as long as another row, whose steps cost more."""

from typing import List

import torch
from detectron2.config import CfgNode

from ..cores import share_cores
from ..engine.early_log import held_back
from ..engine.main import argument_parser, resolve_config
from ..engine.pace import Pace, device_name, measure_pace
from ..text import plain
from .found import PACE, read_found, write_found
from .plan import Study


def config_of(words: List[str], distils: bool = True) -> CfgNode:
    """The config of a row.

    Args:
        words: what follows `d2kd train`; the files behind `--import` have been executed.
        distils: whether `--teacher` counts, which must have been trained then.
    """
    args = argument_parser().parse_args(["--config-file", *words])
    args.imports = []
    if not distils:
        args.teacher, args.distill = [], []
    with held_back():  # what there is to say, the run says
        return resolve_config(args, trains=True)


def measure_paces(study: Study, jobs: int = 1) -> None:
    """Time the steps of each row with `time_of` and of that row, unless pace.yaml has them.

    Args:
        study: its teachers are trained.
        jobs: trainings at the same time, as for `run_study`: they share the cores.
    """
    rows, found = study.data["rows"], read_found(study.output / PACE)
    for name in (x for x in rows if "time_of" in rows[x] and x not in study.only_named):
        other = rows[name]["time_of"]
        commands = [list(study.trained[x]) for x in (name, other)]
        configs = [config_of(words) for words in commands]
        if found.get(name, {}).get("commands") != commands:
            print(f"{plain(name)}: its steps and those of {plain(other)} are timed", flush=True)
            share_cores(jobs)
            pace = measure_pace(*configs)
            found[name] = {"time_of": other, "ratio": round(pace.ratio, 3), "turns": pace.turns,
                           "seconds": round(pace.plain, 4), "commands": commands,
                           "device": device_name(), "threads": torch.get_num_threads()}  # fmt: skip
        pace = Pace(found[name]["seconds"], found[name]["ratio"])
        found[name]["steps"] = pace.matched_steps(configs[1].SOLVER.MAX_ITER)
        write_found(study.output / PACE, found)
