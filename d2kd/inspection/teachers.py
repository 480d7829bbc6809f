"""Published teachers: what there is, and what each can teach a student."""

import difflib
import os
from typing import Any, Dict, List, Optional, Sequence

import torch
from detectron2.config import CfgNode
from torch.overrides import TorchFunctionMode

from ..adapters import DetectorAdapter, build_adapter
from ..build import student_config
from ..checkpoint.address import cached_file
from ..config.defaults import get_d2kd_cfg
from ..config.loading import merge_config_file, without_pretrained
from ..config.naming import construct
from ..config.sources.entry import Entry
from ..config.sources.find import is_here, published, unlisted
from ..errors import ConfigError
from ..heads import DISTILLATION_HEAD_REGISTRY
from .combinations import fits
from .text_table import format_table

_MORE = (
    "\n\nAP as published, on COCO's val2017; licence of the weights as their publisher states it. "
    "d2kd teachers NAME, or a part\nof names such as new_baselines, adds strides, widths, size and "
    "methods, for a student of yours with --student CONFIG.\nAny config, run or checkpoint of your "
    "own is a teacher, too."
)


class NumbersOnCpu(TorchFunctionMode):
    """Networks read the numbers of `linspace`, which the device "meta" does not have."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Optional[Dict[str, Any]] = None
    ) -> Any:
        kwargs = {**(kwargs or {}), **({"device": "cpu"} if func is torch.linspace else {})}
        return func(*args, **kwargs)


def teacher_table(part: str = "", student: str = "") -> str:
    """A table of the published teachers.

    Args:
        part: of their names, or any name of Hugging Face or timm; "" for all, then in brief unless
            there is a student.
        student: a config; methods are those for this student, "" for one like the teacher.

    Raises:
        ConfigError: no name has that part; or the student's config is wrong.
    """
    if not (found := _named(part)):
        names = [entry.name for entry in published()]
        near = difflib.get_close_matches(part, names, n=3, cutoff=0.3)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise ConfigError(f"NAME {part!r} is in no name of a published teacher.{hint}")
    if not part and not student:
        return format_table([_brief(x) for x in found], ("name", "box AP", "licence")) + _MORE
    adapter = None
    if student:
        cfg = get_d2kd_cfg()
        merge_config_file(cfg, student, "--student")
        adapter = _on_meta(student_config(cfg))
    rows = [[*_brief(x), *_details(x, adapter)] for x in found]
    headers = ("name", "box AP", "licence", "strides x width", "MB", "methods")
    return format_table(rows, headers)


def _named(part: str) -> List[Entry]:
    """The published teachers with this part, and before them a model that has exactly this name."""
    found = [entry for entry in published() if part.lower() in entry.name.lower()]
    if part in (entry.name for entry in found):
        return found
    try:
        return [*unlisted(part), *found]
    except ConfigError:
        if not found:
            raise
        return found


def _brief(entry: Entry) -> List[str]:
    return [entry.name, "" if entry.box_ap is None else f"{entry.box_ap:.1f}", entry.licence]


def _details(entry: Entry, student: Optional[DetectorAdapter]) -> Sequence[str]:
    """Strides and width, size, and methods; or why they are not known."""
    if not is_here(entry.name):
        return "", "", "known once its library has fetched it"
    cfg = get_d2kd_cfg()
    try:
        merge_config_file(cfg, entry.name, "NAME")
        adapter = _on_meta(cfg)
    except (ConfigError, ImportError) as error:
        return "", "", str(error)
    features = adapter.spec().features
    widths = sorted({shape.channels for shape in features.values()})
    size = sum(x.numel() * x.element_size() for x in adapter.detector.state_dict().values()) / 1e6
    names = (name for name, _ in sorted(DISTILLATION_HEAD_REGISTRY))
    with torch.device("meta"):
        methods = [name for name in names if fits(name, student or adapter, adapter)]
    local = ", here" if entry.weights and os.path.exists(cached_file(entry.weights)) else ""
    levels = "-".join(str(x) for x in sorted({min(features), max(features)}))
    return f"{levels} x {', '.join(map(str, widths))}", f"{size:.0f}{local}", " ".join(methods)


def _on_meta(cfg: CfgNode) -> DetectorAdapter:
    """The adapter of a detector without numbers."""
    cfg = without_pretrained(cfg)
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"), NumbersOnCpu():
        return build_adapter(construct(cfg))
