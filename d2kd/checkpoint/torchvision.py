"""torchvision's checkpoints of detectors under Detectron2's names.

Files of torchvision before 0.13, as the published ones are, call some layers otherwise; both are
known.
"""

import re
from typing import Dict, List, Mapping, Tuple

import torch
from torch import Tensor

_MARK = "backbone.body.conv1.weight"
_ALL = 91  # outputs of torchvision's COCO models: category ids, 0 for background
_UNUSED = {0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83}  # of the ids
_TRUNK, _FPN, _RPN = r"backbone\.body\.", r"backbone\.fpn\.", r"rpn\.head\."
_CLS, _REG = r"head\.classification_head\.", r"head\.regression_head\."
_BOX, _MASK = r"roi_heads\.box_head\.", r"roi_heads\.mask_head\."
_BLOCK = _TRUNK + r"layer(\d)\.(\d+)\."
_IN = "backbone.bottom_up."
_Rule = Tuple[str, str, Tuple[int, ...]]
_RULES: Tuple[_Rule, ...] = (  # pattern of the name's start, what it becomes, added to its numbers
    (_TRUNK + r"conv1\.", _IN + "stem.conv1.", ()),
    (_TRUNK + r"bn1\.", _IN + "stem.conv1.norm.", ()),
    (_BLOCK + r"conv(\d)\.", _IN + "res{}.{}.conv{}.", (1, 0, 0)),
    (_BLOCK + r"bn(\d)\.", _IN + "res{}.{}.conv{}.norm.", (1, 0, 0)),
    (_BLOCK + r"downsample\.0\.", _IN + "res{}.{}.shortcut.", (1, 0)),
    (_BLOCK + r"downsample\.1\.", _IN + "res{}.{}.shortcut.norm.", (1, 0)),
    (_FPN + r"extra_blocks\.", "backbone.top_block.", ()),
    (_CLS + r"conv\.", "head.cls_subnet.", ()),
    (_REG + r"conv\.", "head.bbox_subnet.", ()),
    (_CLS + r"cls_logits\.", "head.cls_score.", ()),
    (_REG + r"bbox_reg\.", "head.bbox_pred.", ()),
    (_REG + r"bbox_ctrness\.", "head.ctrness.", ()),
    (_RPN + r"cls_logits\.", "proposal_generator.rpn_head.objectness_logits.", ()),
    (_RPN + r"bbox_pred\.", "proposal_generator.rpn_head.anchor_deltas.", ()),
    (_BOX + r"fc6\.", "roi_heads.box_head.fc1.", ()),
    (_BOX + r"fc7\.", "roi_heads.box_head.fc2.", ()),
    (_BOX + r"5\.", "roi_heads.box_head.fc1.", ()),
    (_BOX + r"(\d)\.0\.", "roi_heads.box_head.conv{}.", (1,)),
    (_BOX + r"(\d)\.1\.", "roi_heads.box_head.conv{}.norm.", (1,)),
    (_MASK + r"(\d)\.0\.", "roi_heads.mask_head.mask_fcn{}.", (1,)),
    (_MASK + r"(\d)\.1\.", "roi_heads.mask_head.mask_fcn{}.norm.", (1,)),
    (r"roi_heads\.mask_predictor\.conv5_mask\.", "roi_heads.mask_head.deconv.", ()),
    (r"roi_heads\.mask_predictor\.mask_fcn_logits\.", "roi_heads.mask_head.predictor.", ()),
)
_BY_ANCHOR = "head.cls_score", "head.bbox_pred"
_BY_CLASS = "head.cls_score", "roi_heads.box_predictor", "roi_heads.mask_head.predictor"


def is_torchvision(weights: Mapping[str, Tensor]) -> bool:
    """Whether tensors are those of a detector of torchvision on a ResNet."""
    return _MARK in weights


def from_torchvision(
    weights: Mapping[str, Tensor], model: Mapping[str, Tensor]
) -> Dict[str, Tensor]:
    """Tensors under Detectron2's names, with the classes in Detectron2's order.

    Of the 91 outputs for COCO, the 80 that stand for a class are taken where the model has 80
    classes: exactly so behind a sigmoid; behind a softmax the probabilities are those given that
    none of the others is meant. Background, the first output, becomes the last one of a softmax,
    and is left out before a sigmoid. The nine anchors of RetinaNet, there by aspect ratio and then
    by size, become those of Detectron2, by size and then by aspect ratio.

    Args:
        weights: of torchvision.
        model: state of the detector that they are for.
    """
    rules = [*_counted_rules(weights), *_RULES]
    found = {_renamed(name, rules): x for name, x in weights.items()}
    anchors = len(found["head.bbox_pred.bias"]) // 4 if "head.bbox_pred.bias" in found else 1
    for name in _BY_ANCHOR if anchors == 9 else ():
        for kind in ("weight", "bias"):
            found[f"{name}.{kind}"] = _by_size(found[f"{name}.{kind}"])
    for name in [x for x in found if x.startswith(_BY_CLASS) and x in model]:
        found[name] = _in_order(found[name], model[name].shape[0], name, anchors)
    for name, x in model.items():  # convolutions before a norm have no bias there
        if name not in found and name.startswith("head.") and name.endswith(".bias"):
            found[name] = torch.zeros_like(x, device="cpu")
    return found


def _counted_rules(weights: Mapping[str, Tensor]) -> List[_Rule]:
    """The rules that depend on how many layers there are."""
    laterals = {name.split(".")[3] for name in weights if ".inner_blocks." in name}
    first = 6 - len(laterals)  # the last lateral is of p5
    rules: List[_Rule] = []
    for theirs, ours in (("inner", "lateral"), ("layer", "output")):
        start = rf"{_FPN}{theirs}_blocks\.(\d)\."
        rules += [(rf"{start}1\.", f"backbone.fpn_{ours}{{}}.norm.", (first,)),
                  (rf"{start}(?:0\.)?", f"backbone.fpn_{ours}{{}}.", (first,))]  # fmt: skip
    step = 3 if "head.classification_head.conv.0.1.weight" in weights else 2
    for theirs, ours in ((_CLS, "cls"), (_REG, "bbox")):
        rules += [(rf"{theirs}conv\.{i}\.{j}\.", f"head.{ours}_subnet.{i * step + j}.", ())
                  for i in range(10) for j in (0, 1)]  # fmt: skip
    if "rpn.head.conv.1.0.weight" in weights:
        rules.append((_RPN + r"conv\.(\d)\.0\.", "proposal_generator.rpn_head.conv.conv{}.", (0,)))
    rules.append((_RPN + r"conv\.(?:0\.0\.)?", "proposal_generator.rpn_head.conv.", ()))
    return rules


def _renamed(name: str, rules: List[_Rule]) -> str:
    for pattern, target, added in rules:
        if found := re.match(pattern, name):
            numbers = (int(x) + y for x, y in zip(found.groups(), added, strict=True))
            return target.format(*numbers) + name[found.end() :]
    return name


def _in_order(x: Tensor, wanted: int, name: str, anchors: int) -> Tensor:
    """The rows of a class predictor, for each anchor all classes, in the model's order."""
    softmax = name.startswith("roi_heads.box_predictor.cls_score")
    outer = anchors if name.startswith("head.") else 1
    inner = 4 if name.startswith("roi_heads.box_predictor.bbox_pred") else 1
    outputs = x.shape[0] // (outer * inner)
    kept = _kept(outputs, wanted // (outer * inner) - softmax)
    rows = [*kept, 0] if softmax else kept
    return x.unflatten(0, (outer, outputs, inner))[:, rows].flatten(0, 2)


def _by_size(x: Tensor) -> Tensor:
    """Rows of a RetinaNet's predictor in Detectron2's order of the 3 x 3 anchors of a cell."""
    return x.unflatten(0, (3, 3, -1)).transpose(0, 1).flatten(0, 2)


def _kept(outputs: int, classes: int) -> List[int]:
    """Which outputs stand for a detector's classes, in order."""
    if (outputs, classes) == (_ALL, _ALL - len(_UNUSED)):
        return [i for i in range(outputs) if i not in _UNUSED]
    return list(range(0 if outputs == classes else 1, outputs))
