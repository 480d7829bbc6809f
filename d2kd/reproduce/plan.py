"""The stages of a pair as a study: teacher, its tokens, plain student, distilled student."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

import yaml
from detectron2.config import CfgNode

from ..config.keys import flatten
from ..errors import ConfigError
from ..study import Study, run_study
from ..study.commands import folder_of
from ..study.plan import build_study
from ..study.results import read_result
from ..study.trainings import Start, start_python
from .pairs import TOKENS, WEIGHTS, Pair, load_pairs

LEARNS_TOKENS = "tokens_"
"""How rows begin that do, and have no AP."""
_NOT_OF_PLAIN = ("DISTILL.", "OUTPUT_DIR", "VERSION", "MODEL.META_ARCHITECTURE")


def plan_of(
    pair: Pair,
    output: Path,
    seeds: Sequence[int] = (1,),
    gpus: int = 1,
    options: Sequence[str] = (),
    stand_in: Optional[Sequence[str]] = None,
) -> Study:
    """What is trained for a pair, one after the other, in folders that pairs share.

    The plain student has the config of the distillation without it. Of pairs whose plain students
    are the same, the first one's is trained for all; a teacher likewise.

    A teacher that d2kd trains is trained unless its file of `output/train` is there, or
    DISTILL.TEACHER.WEIGHTS is among the options. Tokens that a method reads are learnt, with the
    first seed, unless they are.

    Args:
        pair: published.
        output: folder of all pairs.
        seeds: of the students; the teacher is trained once, with the first.
        gpus: of each training.
        options: KEY VALUE pairs for all trainings.
        stand_in: None to use the teachers that there are. A list of KEY VALUE pairs, even an empty
            one, to use none of them: it names what stands in for a published teacher, and one that
            d2kd trains is trained anew.
    """
    data: Dict[str, Any] = {
        "title": pair.name,
        "output": str(output),
        "seeds": list(seeds),
        "options": list(options),
        "num_gpus": gpus,
        "rows": {},
    }
    words = _add_teacher(data, pair, stand_in)
    first = first_of_its_student(pair)
    student = ["MODEL.META_ARCHITECTURE", pair.cfg.DISTILL.STUDENT]
    data["baseline"] = f"plain_{first.name}"
    data["rows"][data["baseline"]] = {"config": first.config, "options": student}
    data["rows"][pair.name] = {"config": pair.config, "options": words}
    return build_study(pair.name, data, yaml.safe_dump(data, sort_keys=False))


def _add_teacher(data: Dict[str, Any], pair: Pair, stand_in: Optional[Sequence[str]]) -> List[str]:
    """Add rows of the teacher and its tokens to a plan; the distillation's pairs that name them."""
    seed, options, words = data["seeds"][0], data["options"], list(stand_in or [])
    if pair.trains_teacher if stand_in is not None else pair.lacks_teacher(options):
        row = f"teacher_{Path(pair.teacher_config).stem}"
        data["rows"][row] = {"config": pair.teacher_config, "seeds": [seed]}
        words = [WEIGHTS, str((str(folder_of(data, row, seed) / "model_final.pth"),))]
    if pair.needs_tokens and TOKENS not in options[::2]:
        row = f"{LEARNS_TOKENS}{Path(pair.tokens_config).stem}"
        pairs = [*words, "DATASETS.TEST", "()"]
        data["rows"][row] = {"config": pair.tokens_config, "seeds": [seed], "options": pairs}
        words += [TOKENS, str(folder_of(data, row, seed))]
    return words


def open_rows(study: Study) -> List[str]:
    """Rows with runs that are not finished.

    Raises:
        ConfigError: a finished run was made by another command.
    """
    try:
        return [name for name, runs in study.rows.items() if None in map(read_result, runs)]
    except ValueError as error:
        raise ConfigError(
            f"--output {study.output} has stages of other options or another --num-gpus: type the "
            f"same ones, or name another folder. {error}"
        ) from error


def run_stages(study: Study, start: Start = start_python) -> List[str]:
    """Run row after row what is not finished; a row that fails ends it.

    Args:
        study: of `plan_of`.
        start: of each stage's process.

    Returns:
        List[str]: one line for each run that failed.
    """
    for row in open_rows(study):
        metric = "total_loss" if row.startswith(LEARNS_TOKENS) else study.metric
        if failed := run_study(replace(study.only([row]), metric=metric), start=start):
            return failed
    return []


def with_metric(study: Study) -> Study:
    """The same without the rows that have none."""
    return study.only(row for row in study.rows if not row.startswith(LEARNS_TOKENS))


def first_of_its_student(pair: Pair) -> Pair:
    """The first pair, in the order of the list, whose plain student is trained alike."""
    own = _plain(pair.cfg)
    student = pair.name.split("_FPN_")[0]
    alike = (x for x in load_pairs().values() if x.name.split("_FPN_")[0] == student)
    return next(x for x in alike if _plain(x.cfg) == own)


def _plain(cfg: CfgNode) -> Dict[str, Any]:
    flat = flatten(cfg).items()
    return {key: value for key, value in flat if not key.startswith(_NOT_OF_PLAIN)}
