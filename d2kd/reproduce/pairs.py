"""The published pairs: a config of distill/, its teacher, and the AP that was published."""

import difflib
import os
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Dict, Optional, Sequence

from detectron2.config import CfgNode

from ..config.defaults import get_d2kd_cfg
from ..config.loading import merge_config_file
from ..config.locate import resolve_config_file
from ..errors import ConfigError
from ..file_io import read_yaml

WEIGHTS, TOKENS = "DISTILL.TEACHER.WEIGHTS", "DISTILL.MasKD.TOKENS"
_TRAINED = Path("output/train")  # where recipes look for teachers that d2kd trains


@dataclass(frozen=True)
class Pair:
    """A teacher and a student of a paper.

    Args:
        name: of its config in `configs/distill`, without .yaml.
        teacher: where the teacher comes from, as docs/reference/recipes.md has it.
        published: what was published, as that page has it; "-" for nothing.
        plain: published box AP of the student without distillation, 0 to 100; None if unknown.
        ap: with it; None where this pair was not published.
        tolerance: AP by which a run here may end above or below `ap` and agree with it.
    """

    name: str
    teacher: str
    published: str
    plain: Optional[float] = None
    ap: Optional[float] = None
    tolerance: Optional[float] = None

    @property
    def config(self) -> str:
        """Of the distillation."""
        return f"distill/{self.name}.yaml"

    @cached_property
    def cfg(self) -> CfgNode:
        """The distillation's, not to be changed."""
        return _read(self.config)

    @property
    def teacher_config(self) -> str:
        """As DISTILL.TEACHER.CONFIG_FILES names it; of a teacher to train, its training's."""
        if self.trains_teacher:
            return f"train/{Path(self._weights).parent.name}.yaml"
        return str(self.cfg.DISTILL.TEACHER.CONFIG_FILES[0])

    @property
    def _weights(self) -> str:
        return (*self.cfg.DISTILL.TEACHER.WEIGHTS, "")[0]

    @property
    def trains_teacher(self) -> bool:
        """Whether the teacher is one that d2kd trains first."""
        return Path(self._weights).parent.parent == _TRAINED

    def lacks_teacher(self, options: Sequence[str] = ()) -> bool:
        """Whether it trains a teacher that is not there yet and is not named in KEY VALUE pairs."""
        named = WEIGHTS in options[::2]
        return self.trains_teacher and not named and not os.path.isfile(self._weights)

    @property
    def needs_tokens(self) -> bool:
        """Whether a method reads what a training of its own has learnt before."""
        return "MasKD" in self.cfg.DISTILL.HEADS

    @property
    def tokens_config(self) -> str:
        """Of that training."""
        return f"tokens/{Path(self.teacher_config).stem.removesuffix('_3x')}.yaml"

    @property
    def teacher_file(self) -> str:
        """A file of converted weights that the teacher needs, "" if it needs none."""
        if not self.teacher_config.startswith("configs/teachers/"):
            return ""
        return str(_read(self.teacher_config).MODEL.WEIGHTS)


def _read(config: str) -> CfgNode:
    cfg = get_d2kd_cfg()
    merge_config_file(cfg, resolve_config_file(config, "published pair"), config)
    return cfg


@cache
def load_pairs() -> Dict[str, Pair]:
    """All of them, by name."""
    data = read_yaml(Path(__file__).with_name("published.yaml"))
    return {name: Pair(name, **entry) for name, entry in data.items()}


def load_pair(name: str) -> Pair:
    """One of them; a path of its config will do.

    Raises:
        ConfigError: there is none of that name.
    """
    pairs, stem = load_pairs(), Path(name).name.removesuffix(".yaml")
    if stem not in pairs:
        near = difflib.get_close_matches(stem, pairs, n=3)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise ConfigError(f"{name!r} is no published pair; see d2kd reproduce --list.{hint}")
    return pairs[stem]
