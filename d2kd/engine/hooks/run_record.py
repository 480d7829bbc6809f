"""run.json and results.json: what a run is of, and how it ended."""

import logging
from pathlib import Path
from typing import Any, Dict, List, Sequence

from detectron2.config import CfgNode
from detectron2.engine import HookBase

from ...teachers import Teacher
from ..changes import files_of, inputs_of, read_record, recorded_inputs
from ..compare import Inputs, find_changes
from ..provenance import describe_run, write_json, write_results

_OF_A_SEGMENT = ("command", "d2kd", "commit", "python", "torch", "detectron2", "device", "threads",
                 "ranks")  # fmt: skip
_SAID = ("d2kd", "torch", "detectron2", "device", "ranks")
Record = Dict[str, Any]


class RunRecord(HookBase):
    """Writes OUTPUT_DIR/run.json before the first iteration and results.json at the end.

    run.json stays what it was when the run began. A process that goes on with it adds an entry to
    `segments`: the first iteration, the command, versions, and `changes`, name -> [before, now].
    It is registered on the first rank alone, behind `EvalHook`.
    """

    def __init__(self, cfg: CfgNode, teachers: Sequence[Teacher] = ()) -> None:
        """Set the config, and the teachers, of whom checkpoint and precision are recorded."""
        self.cfg, self._teachers = cfg, teachers
        self._run: Record = {}

    def before_train(self) -> None:
        """Write the record, or add to it."""
        start = self.trainer.start_iter
        weights = [teacher.weights for teacher in self._teachers]
        self._run = describe_run(self.cfg, [*files_of(self.cfg), *weights])
        self._run["teacher_precision"] = [teacher.precision for teacher in self._teachers]
        self._run["first_iteration"] = start
        folder, inputs = Path(self.cfg.OUTPUT_DIR), inputs_of(self.cfg, self._run)
        record = read_record(folder) if start > 0 else {}
        before = recorded_inputs(folder)
        if start > 0 and not record:
            logging.getLogger(__name__).warning(
                "%s has no run.json that can be read: whether data, teachers or weights are those "
                "that the run began with is not known.", folder,
            )  # fmt: skip
        if record:
            record = go_on(record, before, self._run, inputs)
            _say(record["segments"])
        else:
            record = {**self._run, "segments": [_segment(self._run)]}
        write_json(folder / "run.json", {**record, "inputs": inputs})

    def after_train(self) -> None:
        """Write the last evaluation, if there was one."""
        results = getattr(self.trainer, "_last_eval_results", None)
        if results:
            write_results(self.cfg, results, {**self._run, "iterations": self.trainer.iter})


def go_on(record: Record, before: Inputs, run: Record, inputs: Inputs) -> Record:
    """The record of a run with one more segment.

    Segments of which no step is left, since their checkpoints are gone, are replaced by it.

    Args:
        record: what run.json holds.
        before: `recorded_inputs`.
        run: `describe_run` of the new segment, with its `first_iteration`.
        inputs: `inputs_of` it.
    """
    segments = list(record.get("segments") or [_segment({"first_iteration": 0, **record})])
    changes = {c.what: [c.before, c.now] for c in find_changes(before, inputs)}
    while len(segments) > 1 and segments[-1]["first_iteration"] >= run["first_iteration"]:
        for what, (old, new) in segments.pop().get("changes", {}).items():
            changes[what] = [old, changes.get(what, [None, new])[1]]
    changes = {what: pair for what, pair in changes.items() if pair[0] != pair[1]}
    return {**record, "segments": [*segments, {**_segment(run), "changes": changes}]}


def _segment(run: Record) -> Record:
    return {k: run[k] for k in ("first_iteration", *_OF_A_SEGMENT) if k in run} | {"changes": {}}


def _say(segments: List[Record]) -> None:
    """One line, if anything is new in the last segment."""
    last, now = segments[-2:]
    said = [f"{what} {old!r} -> {new!r}" for what, (old, new) in now["changes"].items()]
    said += [f"{k} {last[k]!r} -> {now[k]!r}" for k in _SAID if k in last and last[k] != now[k]]
    if said:
        logging.getLogger(__name__).warning(
            "The run goes on from iteration %d with changes, which run.json has as its segment %d: "
            "%s.", now["first_iteration"], len(segments), ", ".join(said),
        )  # fmt: skip
