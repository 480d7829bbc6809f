"""The commands that a plan stands for."""

from importlib.util import find_spec
from pathlib import Path
from typing import Dict, List

from ..config.loading import load_config
from ..config.naming import construct
from ..config.sources.find import published_weights
from ..errors import ConfigError
from ..export.formats import FORMATS
from .choose import TEACHER, Wishes

RUNS = ("teacher", "plain", "distilled")
REPORT, MODEL, FOLDER = "report.html", "student.onnx", "student"
_EXPORTED = (
    "RetinaNet",
    "FCOS",
    "ATSS",
    "AutoAssign",
    "DDOD",
    "GFL",
    "RepPoints",
    "GeneralizedRCNN",
)
_PLANNED = {
    "SOLVER.MAX_ITER": "--steps",
    "SOLVER.IMS_PER_BATCH": "--batch",
    "SEED": "--seed",
    "OUTPUT_DIR": "--output",
    **{f"INPUT.{x}_SIZE_{y}": "--size" for x in ("MIN", "MAX") for y in ("TRAIN", "TEST")},
}
_STUDENT = "own/student"  # and what follows in the names of its kin; so has the teacher's


class Commands:
    """The words of all commands of a plan; the data set is in `data`.

    Attributes:
        trains_teacher: whether none is given, or a config that has no weights yet.
    """

    def __init__(self, wishes: Wishes, data: Path) -> None:
        self._wishes, self._data, self._folder = wishes, data, Path(wishes.output)
        self._student = wishes.student or f"{_STUDENT}.yaml"
        own = self._student.startswith(_STUDENT)
        kin = self._student.removeprefix(_STUDENT) if own else ".yaml"
        self._teacher = wishes.teacher or f"own/teacher{kin}"
        self.trains_teacher = not (wishes.teacher and _has_weights(wishes.teacher))

    def check(self) -> None:
        """Check configs and options before anything else is done.

        Raises:
            ConfigError, MissingFileError: one is wrong, or the weights of a trunk are missing.
        """
        for key in self._wishes.options[::2]:
            if key in _PLANNED:
                raise ConfigError(f"{key} is chosen by the plan: type {_PLANNED[key]} instead.")
        for name in (self._student, *[self._teacher] * self.trains_teacher):
            cfg = load_config(name, self._wishes.options)
            if cfg.MODEL.TIMM.CHECKPOINT and not Path(cfg.MODEL.TIMM.CHECKPOINT).is_file():
                construct(cfg)
        detector = load_config(self._student, self._wishes.options).MODEL.META_ARCHITECTURE
        lacks = [x for x in FORMATS["onnx"].packages if find_spec(x) is None]
        if detector in _EXPORTED and lacks:
            raise ConfigError(
                f"d2kd distill writes an ONNX file at its end, for which {', '.join(lacks)} "
                "must be there: pip install d2kd[export]."
            )

    def plain(self, size: int, steps: int) -> List[str]:
        """Behind `d2kd train` of the plain student."""
        return self._training(self._student, [], size, steps)

    def teacher(self, size: int, steps: int) -> List[str]:
        """Of the teacher: the given one, or that of own/ which belongs to the student."""
        return self._training(self._teacher, [], size, steps)

    def distilled(self, size: int, steps: int) -> List[str]:
        """Of the distilled student."""
        trained = str(self._folder / RUNS[0])
        teacher = trained if self.trains_teacher else self._wishes.teacher
        return self._training(self._student, ["--teacher", teacher], size, steps)

    def measured(self, size: int) -> List[str]:
        """Of what is timed beside the plain student; without balance, 1 or 2 % of a step."""
        unbalanced = ["DISTILL.BALANCE.SHARES", "()"]
        if self.trains_teacher:
            return self.teacher(size, 1)
        return [*self.distilled(size, 1), *unbalanced]

    def stages(self, size: int, steps: int, detector: str) -> Dict[str, List[str]]:
        """Name -> command."""
        wishes, folder = self._wishes, self._folder
        trained = {"teacher": self.teacher(size, TEACHER * steps)} if self.trains_teacher else {}
        trained |= {"plain": self.plain(size, steps)} if wishes.plain else {}
        trained["distilled"] = self.distilled(size, steps)
        commands = {
            name: ["d2kd", "train", *words, "OUTPUT_DIR", str(folder / name)]
            for name, words in trained.items()
        }
        runs = [str(folder / name) for name in trained]
        commands["report"] = ["d2kd", "report", *runs, "--output", str(folder / REPORT)]
        target = folder / (MODEL if detector in _EXPORTED else FOLDER)
        commands["export"] = ["d2kd", "export", str(folder / RUNS[-1]), "--output", str(target),
                              "--overwrite"]  # fmt: skip
        return commands

    def _training(self, config: str, more: List[str], size: int, steps: int) -> List[str]:
        wishes = self._wishes
        longest = -(-size * 4 // 3)
        pairs = ["INPUT.MIN_SIZE_TRAIN", f"({size},)", "INPUT.MIN_SIZE_TEST", size,
                 "INPUT.MAX_SIZE_TRAIN", longest, "INPUT.MAX_SIZE_TEST", longest,
                 "SOLVER.MAX_ITER", steps, "SEED", wishes.seed]  # fmt: skip
        pairs += ["SOLVER.IMS_PER_BATCH", wishes.batch] if wishes.batch else []
        return [config, "--data", str(self._data), *more, *map(str, pairs), *wishes.options]


def _has_weights(teacher: str) -> bool:
    """Whether a run, a model-zoo name or a config names weights of more than its trunk."""
    if Path(teacher).is_dir() or published_weights(teacher):
        return True
    weights = load_config(teacher, []).MODEL.WEIGHTS
    return bool(weights) and "ImageNetPretrained" not in weights
