"""Names and channel orders: mmdetection's tensors as Detectron2's."""

import re
from typing import Callable, Dict, List, Optional, Tuple, Union

from torch import Tensor

from .architecture import PREDICTORS, Architecture

Rule = Tuple[str, Union[str, Callable[[re.Match[str]], str]]]
"""A pattern and its replacement, as for `re.sub`."""

_TOWERS = {"cls_convs": "cls_subnet", "reg_convs": "bbox_subnet"}


def _block(tail: str) -> Callable[[re.Match[str]], str]:
    """Layer L, block b of mmdetection's ResNet as stage L + 1, block b of Detectron2's."""
    return lambda m: f"backbone.bottom_up.res{int(m[1]) + 1}.{m[2]}.{m.expand(tail)}"


_SHARED: Tuple[Rule, ...] = (  # (pattern, replacement), tried in this order
    (r"backbone\.conv1\.(.+)", r"backbone.bottom_up.stem.conv1.\1"),
    (r"backbone\.bn1\.(.+)", r"backbone.bottom_up.stem.conv1.norm.\1"),
    (r"backbone\.layer(\d)\.(\d+)\.conv2(?:\.conv)?_offset\.(.+)", _block(r"conv2.offset.\3")),
    (r"backbone\.layer(\d)\.(\d+)\.conv(\d)\.(.+)", _block(r"conv\3.\4")),
    (r"backbone\.layer(\d)\.(\d+)\.bn(\d)\.(.+)", _block(r"conv\3.norm.\4")),
    (r"backbone\.layer(\d)\.(\d+)\.downsample\.0\.(.+)", _block(r"shortcut.\3")),
    (r"backbone\.layer(\d)\.(\d+)\.downsample\.1\.(.+)", _block(r"shortcut.norm.\3")),
    (r"bbox_head\.(?:atss_centerness|atss_iou|conv_centerness)\.(.+)", r"head.ctrness.\1"),
    (r"bbox_head\.(scales\.\d+\.scale)", r"head.\1"),
    (r"bbox_head\.(center_prior\.(?:mean|sigma))", r"\1"),
    (r"bbox_head\.(reg_conf\.\d\..+)", r"head.\1"),
    (r"bbox_head\.reppoints_(cls_conv|pts_init_conv|pts_refine_conv)\.(.+)", r"head.\1.\2"),
    (r"bbox_head\.reppoints_pts_init_out\.(.+)", r"head.pts_init.\1"),
    (r"bbox_head\.(moment_transfer)", r"\1"),
    (r"rpn_head\.rpn_conv\.(.+)", r"proposal_generator.rpn_head.conv.\1"),
    (r"rpn_head\.rpn_cls\.(.+)", r"proposal_generator.rpn_head.objectness_logits.\1"),
    (r"rpn_head\.rpn_reg\.(.+)", r"proposal_generator.rpn_head.anchor_deltas.\1"),
    (r"roi_head\.bbox_head\.shared_fcs\.(\d)\.(.+)",
     lambda m: f"roi_heads.box_head.fc{int(m[1]) + 1}.{m[2]}"),
    (r"roi_head\.mask_head\.convs\.(\d)\.conv\.(.+)",
     lambda m: f"roi_heads.mask_head.mask_fcn{int(m[1]) + 1}.{m[2]}"),
    (r"roi_head\.mask_head\.upsample\.(.+)", r"roi_heads.mask_head.deconv.\1"),
    (r"roi_head\.mask_head\.conv_logits\.(.+)", r"roi_heads.mask_head.predictor.\1"),
)  # fmt: skip


def target_names(state: Dict[str, Tensor], arch: Architecture) -> Dict[str, str]:
    """From mmdetection's names to Detectron2's; those that nothing is known about are missing."""
    targets = {name: _target(name, arch) for name in state}
    return {name: target for name, target in targets.items() if target}


def _target(name: str, arch: Architecture) -> Optional[str]:
    for pattern, replacement in (*_SHARED, *_neck(arch), *_head(arch)):
        if re.fullmatch(pattern, name):
            return re.sub(pattern, replacement, name)
    return None


def _neck(arch: Architecture) -> List[Rule]:
    laterals, first = 6 - arch.first_level, arch.first_level

    def output(m: re.Match[str]) -> str:
        level = int(m[1])
        kind = f"fpn_output{level + first}" if level < laterals else f"top_block.p{level + first}"
        return f"backbone.{kind}.{m[2].replace('gn.', 'norm.')}"

    return [
        (r"neck\.lateral_convs\.(\d)\.conv\.(.+)",
         lambda m: f"backbone.fpn_lateral{int(m[1]) + first}.{m[2]}"),
        (r"neck\.fpn_convs\.(\d)\.conv\.(.+)", output),
        (r"neck\.lateral_convs\.(\d)\.gn\.(.+)",
         lambda m: f"backbone.fpn_lateral{int(m[1]) + first}.norm.{m[2]}"),
        (r"neck\.fpn_convs\.(\d)\.(gn\..+)", output),
    ]  # fmt: skip


def _head(arch: Architecture) -> List[Rule]:
    step = 3 if arch.tower_norm else 2
    two_stage = arch.detector in ("FasterRCNN", "MaskRCNN")
    to = "roi_heads.box_predictor" if two_stage else "head"
    cls_name, reg_name = map(re.escape, PREDICTORS[arch.detector])
    return [
        (rf"{cls_name}\.(.+)", rf"{to}.cls_score.\1"),
        (rf"{reg_name}\.(.+)", rf"{to}.bbox_pred.\1"),
        (r"bbox_head\.(cls_convs|reg_convs)\.0\.(?:conv\.)?conv_offset\.(.+)",
         lambda m: f"head.{_TOWERS[m[1]]}.0.offset.{m[2]}"),
        (r"bbox_head\.(cls_convs|reg_convs)\.(\d)\.conv\.(.+)",
         lambda m: f"head.{_TOWERS[m[1]]}.{step * int(m[2])}.{m[3]}"),
        (r"bbox_head\.(cls_convs|reg_convs)\.(\d)\.gn\.(.+)",
         lambda m: f"head.{_TOWERS[m[1]]}.{step * int(m[2]) + 1}.{m[3]}"),
    ]  # fmt: skip


def reorder(name: str, tensor: Tensor, arch: Architecture) -> Tensor:
    """A tensor whose shape fits, with channels in Detectron2's order.

    Anchors of RetinaNet go from ratio-major to size-major; GFLv2 loses the row of no class.
    """
    if arch.detector == "GFLv2" and name.startswith("bbox_head.gfl_cls."):
        return tensor[: arch.num_classes].clone()
    if arch.detector == "RetinaNet" and name.startswith(PREDICTORS["RetinaNet"]):
        return tensor.unflatten(0, (3, 3, -1)).transpose(0, 1).flatten(0, 2).contiguous()
    return tensor
