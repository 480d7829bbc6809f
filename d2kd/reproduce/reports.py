"""The report.json of a study, which may come from anybody, checked before it is used."""

import math
from pathlib import Path
from typing import Any, Dict, List

import yaml

from ..config.locate import moved_config
from ..errors import ConfigError
from ..file_io import parse_yaml, read_json
from ..study.checks import checked

Values = Dict[str, Dict[str, float]]
"""Row -> seed -> metric, of what is a number."""


class Report:
    """What a report holds.

    Attributes:
        plan: the study's yaml, checked; the names of its rows are text.
        values: of its metric.
        text: of the yaml.
    """

    def __init__(self, path: Path) -> None:
        """Read one.

        Raises:
            ConfigError: it is no report, or its study is none.
        """
        data = read_json(path)
        self._no_report = ConfigError(f"{path} is no report.json of d2kd study, or not whole.")
        self._data = self._dict(data)
        if not isinstance(text := self._data.get("study"), str):
            raise self._no_report
        self.text: str = text
        self.values: Values = {
            str(row): {str(seed): x for seed, x in self._dict(found).items() if _is_number(x)}
            for row, found in self._part("values").items()
        }
        self.plan = checked(str(path), self._with_todays_configs(path))

    def record(self, row: str, seed: int) -> Dict[str, Any]:
        """What a run depended on, {} if that is not known."""
        return self._dict(self._dict(self._part("runs").get(row, {})).get(str(seed), {}))

    def steps(self, row: str) -> int:
        """SOLVER.MAX_ITER of a row that trains for the time of another one."""
        found = self._dict(self._part("equal_time").get(row, {})).get("steps")
        if not isinstance(found, int) or found < 1:
            raise self._no_report
        return found

    def tuned_options(self, name: str) -> List[Any]:
        """KEY VALUE pairs that tuning chose for a row of `tune`; none for none."""
        if not name:
            return []
        rows = self._dict(self._part("tuned").get("rows", {}))
        found = self._dict(rows.get(name, {})).get("options")
        if not isinstance(found, list):
            raise self._no_report
        return found

    def _part(self, key: str) -> Dict[str, Any]:
        return self._dict(self._data.get(key, {}))

    def _dict(self, value: Any) -> Dict[str, Any]:
        if not isinstance(value, dict):
            raise self._no_report
        return value

    def _with_todays_configs(self, path: Path) -> Any:
        """The plan with names of rows as json has them, and configs where they lie today."""
        try:
            plan = parse_yaml(self.text)
        except yaml.YAMLError as error:
            reason = " ".join(str(error).split())
            raise ConfigError(f"{path}: its study is no yaml: {reason}") from error
        if isinstance(plan, dict) and isinstance(plan.get("rows"), dict):
            plan["rows"] = {str(name): _with_todays_config(x) for name, x in plan["rows"].items()}
        return plan


def _with_todays_config(row: Any) -> Any:
    if isinstance(row, dict) and isinstance(row.get("config"), str):
        row["config"] = moved_config(row["config"])
    return row


def _is_number(x: Any) -> bool:
    return isinstance(x, (int, float)) and not isinstance(x, bool) and math.isfinite(x)
