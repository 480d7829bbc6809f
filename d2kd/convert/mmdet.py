"""From a checkpoint of mmdetection to a checkpoint of Detectron2 and the yaml that loads it."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Dict, Optional

import torch
import yaml
from torch import Tensor

from ..checkpoint.values import check_values
from ..errors import ConfigError
from ..file_io import expect, write_atomically
from .architecture import Architecture, infer
from .config import build_config
from .copies import one_detector
from .details import Details, details_from_text, states_classes, states_ddod
from .keys import reorder, target_names
from .reader import read_mmdet
from .shapes import check_fit, target_state


@dataclass(frozen=True)
class Conversion:
    """What was written, and what was found out: `sources` says from where each detail comes."""

    checkpoint: Path
    config: Path
    architecture: Architecture
    details: Details
    sources: Dict[str, str]


def convert_mmdet(
    source: str,
    folder: str,
    name: str = "",
    style: str = "",
    num_classes: Optional[int] = None,
    config_file: str = "",
    prefix: str = "",
) -> Conversion:
    """Convert a checkpoint.

    Args:
        source: .pth of mmdetection 2 or 3; no code of it is run.
        folder: gets <name>.pth and <name>.yaml.
        name: of both files; the source's without suffix if empty.
        style: "caffe" or "pytorch", where the file's own config does not say or is wrong.
        num_classes: K, for GFLv2 files that have no row too many.
        config_file: mmdetection's config, read as text in place of the one in the file.
        prefix: of one detector's names, where the file holds several; see `one_detector`.

    Raises:
        FileNotFoundError: no such file.
        ConfigError: not a supported detector, its tensors do not fill it exactly, or the source
            would be overwritten; nothing is written then.
        OSError: the folder cannot be written.
    """
    state, text = read_mmdet(source)
    state, left_out = one_detector(state, prefix)
    text = _read_text(config_file) if config_file else text
    arch = infer(state, num_classes)
    if arch.detector == "GFLv2" and states_classes(text, arch.num_classes + 1):
        arch = infer(state, num_classes or arch.num_classes + 1)
    if arch.iou_branch and states_ddod(text):
        arch = replace(arch, detector="DDOD")
    details, sources = details_from_text(text, arch, style)
    if arch.detector == "DDOD" and not arch.tower_deform:
        sources["DDOD"] = "rather than an ATSS with an IoU branch (config)"
    checkpoint = Path(folder).resolve() / f"{name or Path(source).stem}.pth"
    if checkpoint == Path(source).resolve():
        raise ConfigError(f"{checkpoint} would overwrite the source: give another folder or name.")
    config = build_config(arch, details, str(checkpoint))
    tensors = _fill(state, config, arch)
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(checkpoint, lambda path: torch.save({"model": tensors}, path))
    text = yaml.safe_dump(config, sort_keys=False, default_flow_style=None)
    write_atomically(checkpoint.with_suffix(".yaml"), lambda path: path.write_text(text))
    if left_out:
        sources["left out"] = left_out
    return Conversion(checkpoint, checkpoint.with_suffix(".yaml"), arch, details, sources)


def _read_text(path: str) -> str:
    expect(path, "--config", "python")
    try:
        return Path(path).read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is no config of mmdetection: it is no text in UTF-8.") from error


def _fill(
    state: Dict[str, Tensor], config: Dict[str, Any], arch: Architecture
) -> Dict[str, Tensor]:
    """Exactly the tensors of the target."""
    targets = target_names(state, arch)
    check_fit(state, targets, config, arch)
    found = {target: reorder(name, state[name], arch) for name, target in targets.items()}
    target = target_state(config, "cpu")
    check_values(found, target)
    return {k: found.get(k, torch.zeros_like(v)).to(v.dtype) for k, v in target.items()}
