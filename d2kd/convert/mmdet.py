"""From a checkpoint of mmdetection to a checkpoint of Detectron2 and the yaml that loads it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional

import torch
import yaml
from detectron2.modeling import build_model
from torch import Tensor

from ..config.defaults import get_d2kd_cfg
from ..file_io import write_atomically
from .architecture import Architecture, infer
from .config import build_config
from .details import Details, details_from_text, states_classes
from .keys import rename
from .reader import read_mmdet


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
) -> Conversion:
    """Convert a checkpoint.

    Args:
        source: .pth of mmdetection 2 or 3; no code of it is run.
        folder: gets <name>.pth and <name>.yaml.
        name: of both files; the source's without suffix if empty.
        style: "caffe" or "pytorch", where the file's own config does not say or is wrong.
        num_classes: K, for GFLv2 files that have no row too many.
        config_file: mmdetection's config, read as text in place of the one in the file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a supported detector, its tensors do not fill it exactly, or the source
            would be overwritten; nothing is written then.
        OSError: the folder cannot be written.
    """
    state, text = read_mmdet(source)
    text = Path(config_file).read_text() if config_file else text
    arch = infer(state, num_classes)
    if arch.detector == "GFLv2" and states_classes(text, arch.num_classes + 1):
        arch = infer(state, num_classes or arch.num_classes + 1)
    details, sources = details_from_text(text, arch, style)
    checkpoint = Path(folder).resolve() / f"{name or Path(source).stem}.pth"
    if checkpoint == Path(source).resolve():
        raise ValueError(f"{checkpoint} would overwrite the source: give another folder or name.")
    config = build_config(arch, details, str(checkpoint))
    tensors = _fill(config, *rename(state, arch))
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(checkpoint, lambda path: torch.save({"model": tensors}, path))
    text = yaml.safe_dump(config, sort_keys=False, default_flow_style=None)
    write_atomically(checkpoint.with_suffix(".yaml"), lambda path: path.write_text(text))
    return Conversion(checkpoint, checkpoint.with_suffix(".yaml"), arch, details, sources)


def _fill(
    config: Dict[str, Any], found: Dict[str, Tensor], unknown: List[str]
) -> Dict[str, Tensor]:
    """Exactly the tensors of the target; counters of batch norm may be absent or superfluous."""
    target = _target_state(config)
    extra = [k for k in found if k not in target and not k.endswith(".num_batches_tracked")]
    missing = [k for k in target if k not in found and not k.endswith(".num_batches_tracked")]
    shapes = [
        f"{k} {tuple(found[k].shape)} instead of {tuple(v.shape)}"
        for k, v in target.items() if k in found and found[k].shape != v.shape
    ]  # fmt: skip
    problems = {
        "source tensors without a place": unknown + extra,
        "target tensors left empty": missing,
        "tensors of another shape": shapes,
    }
    if any(problems.values()):
        listed = "; ".join(
            f"{len(names)} {what}: {', '.join(names[:10])}{', ...' if len(names) > 10 else ''}"
            for what, names in problems.items() if names
        )  # fmt: skip
        raise ValueError(
            f"The checkpoint does not fit a {config['MODEL']['META_ARCHITECTURE']} exactly, so "
            f"nothing is written. {listed}. Supported are RetinaNet, FCOS, ATSS, GFL, GFLv2, "
            "Faster and Mask R-CNN with a ResNet or ResNeXt and an FPN in their published forms."
        )
    return {k: found.get(k, torch.zeros_like(v)).to(v.dtype) for k, v in target.items()}


def _target_state(config: Dict[str, Any]) -> Dict[str, Tensor]:
    cfg = get_d2kd_cfg()
    cfg.merge_from_other_cfg(type(cfg)(config))
    cfg.MODEL.DEVICE = "cpu"
    return build_model(cfg).state_dict()
