"""The evaluations that each model of a plan gets."""

from dataclasses import dataclass, field
from typing import Any, Dict, List

from ..errors import ConfigError
from ..evaluation.adversarial import fgsm, projected_gradient
from ..evaluation.corruptions import SEVERITIES, check_corruption, corruption_names


@dataclass(frozen=True)
class Cell:
    """One evaluation of one model.

    Attributes:
        kind: "clean", "corruption", "attack" or "shift".
        name: of its file, such as "fog-3".
        options: what it depends on beside the model and the data.
    """

    kind: str
    name: str
    options: Dict[str, Any] = field(default_factory=dict)


def build_cells(data: Dict[str, Any]) -> List[Cell]:
    """Every evaluation of a plan's yaml, that on clean images first.

    Raises:
        ConfigError: an unknown corruption or severity, or numbers of an attack that make no sense.
    """
    clean = Cell("clean", "clean", {"errors": data.get("errors", {})})
    return [clean, *_corruptions(data), *_attacks(data), *_shifts(data)]


def _corruptions(data: dict) -> List[Cell]:
    if "corruptions" not in data:
        return []
    options = data["corruptions"]
    pairs = [
        (name, severity)
        for name in corruption_names(options.get("names", "all"))
        for severity in options.get("severities", SEVERITIES)
    ]
    for pair in pairs:
        check_corruption(*pair)
    return [
        Cell("corruption", f"{name}-{severity}", {"corruption": name, "severity": severity})
        for name, severity in pairs
    ]


def _attacks(data: dict) -> List[Cell]:
    if "attacks" not in data:
        return []
    options = {"epsilons": [2, 8], "steps": 10, "images": 50, **data["attacks"]}
    numbers = [*options["epsilons"], options["steps"], options["images"]]
    if not all(x > 0 for x in numbers):
        raise ConfigError(f"attacks: epsilons, steps and images must be above 0: {options}.")
    common = {"images": options["images"]}
    cells = [Cell("attack", "attack-none", common)]
    for epsilon in options["epsilons"]:
        attacks = {
            "fgsm": fgsm(epsilon),
            "projected": projected_gradient(epsilon, options["steps"]),
        }
        cells += [
            Cell("attack", f"{name}-{epsilon:g}", {**common, **vars(attack)})
            for name, attack in attacks.items()
        ]
    return cells


def _shifts(data: dict) -> List[Cell]:
    cells = []
    for name, options in data.get("shift", {}).items():
        classes = options.get("classes")
        cells.append(
            Cell("shift", f"shift-{name}", {"dataset": options["dataset"], "classes": classes})
        )
    return cells
