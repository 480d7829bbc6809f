"""The commands of a study: one `d2kd train` for each row and seed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List

from ..errors import ConfigError
from ..text import file_name, plain, shell
from .found import read_paces


@dataclass(frozen=True)
class Run:
    """One training: a row of the table with one seed."""

    row: str
    seed: int
    folder: Path
    command: List[str]

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return f"{plain(self.row)}, seed {self.seed}"

    @property
    def shell(self) -> str:
        """The command as one types it."""
        return shell(*self.command)


def words_of(
    path: str, name: str, row: Dict[str, Any], data: Dict[str, Any], tuned: Dict[str, Any]
) -> List[str]:
    """What follows `d2kd train`: config, options of the command, then KEY VALUE pairs."""
    chosen = tuned.get(row.get("tuned", ""), {}).get("options", [])
    pairs = [*data.get("options", []), *row.get("options", []), *chosen]
    gpus = data.get("num_gpus", 1)
    given = {
        "--teacher": teacher_of(data, row),
        "--distill": ",".join(row.get("methods", [])),
        "--num-gpus": str(gpus) if gpus > 1 else "",
    }
    words = [row["config"], *map(str, pairs)]
    for word in (*words, *given.values(), first_folder(data, name)):
        if word.startswith("--"):  # they must not be options of the command, such as --import
            raise ConfigError(f"{path}: rows: {name}: {word!r} is no config, KEY, VALUE or folder.")
    typed = [("--import", file) for file in data.get("imports", [])]
    typed += [(option, value) for option, value in given.items() if value]
    return [words[0], *(word for pair in typed for word in pair), *words[1:]]


def steps_of(data: Dict[str, Any], trained: Dict[str, List[str]]) -> Dict[str, List[str]]:
    """SOLVER.MAX_ITER of rows with time_of; where it is not measured yet, whose time it is."""
    found, steps = read_paces(data), {}
    for name, row in data["rows"].items():
        if other := row.get("time_of"):
            pace = found.get(name, {})
            known = pace.get("commands") == [trained[name], trained[other]]
            steps[name] = ["SOLVER.MAX_ITER", str(pace["steps"] if known else f"(time of {other})")]
    return steps


def run_of(data: Dict[str, Any], name: str, seed: int, words: List[str]) -> Run:
    """The run of a row with one seed; `words` are those behind `d2kd train`."""
    folder = folder_of(data, name, seed)
    own = ["SEED", str(seed), "OUTPUT_DIR", str(folder)]
    return Run(name, seed, folder, ["d2kd", "train", *words, *own])


def folder_of(data: Dict[str, Any], row: str, seed: int) -> Path:
    """The folder of a run."""
    return Path(data["output"], *map(file_name, str(row).split("/")), f"seed_{seed}")


def first_folder(data: Dict[str, Any], row: str) -> str:
    """The folder of a row's run with its first seed."""
    return str(folder_of(data, row, data["rows"][row].get("seeds", data["seeds"])[0]))


def teacher_of(data: Dict[str, Any], row: Dict[str, Any]) -> str:
    """The folder of a row's teacher, "" without one; of a row, the run with its first seed."""
    teacher: str = row.get("teacher", "")
    return first_folder(data, teacher) if teacher in data["rows"] else teacher
