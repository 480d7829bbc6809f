"""Dense heads block by block, so that what passes between the blocks can be read."""

from typing import List, Tuple, Union

from detectron2.modeling.meta_arch.fcos import FCOSHead
from detectron2.modeling.meta_arch.retinanet import RetinaNetHead
from torch import Tensor, nn

from ..detectors.towers import TowerHead
from .replay import refuse_overrides

DenseHead = Union[RetinaNetHead, TowerHead]
_HEADS = (RetinaNetHead.forward, FCOSHead.forward, TowerHead.forward)


def has_towers(head: nn.Module) -> bool:
    """Whether `run_head_with_taps` can run a head."""
    return getattr(type(head), "forward", None) in _HEADS


def run_tower(tower: nn.Sequential, x: Tensor, start: int = 0) -> Tuple[Tensor, List[Tensor]]:
    """Run conv-norm-ReLU blocks, keeping each block's pre-activation.

    Args:
        tower: modules in which every block ends with a ReLU.
        x: (N, C, H, W) input of block 0, or the pre-activation of block `start`.
        start: number of blocks already applied.

    Returns:
        Tuple: output (N, C', H, W) and the pre-activations of the blocks run.
    """
    ends = [i for i, layer in enumerate(tower) if isinstance(layer, nn.ReLU)]
    taps = []
    for layer in tower[ends[start - 1] if start else 0 :]:
        if isinstance(layer, nn.ReLU):
            taps.append(x)
        x = layer(x)
    return x, taps[1:] if start else taps


def run_head_with_taps(
    head: DenseHead, features: List[Tensor]
) -> Tuple[List[List[Tensor]], List[List[Tensor]], List[List[Tensor]]]:
    """Run a dense head and keep its taps; outputs equal `head(features)` bit by bit.

    Args:
        head: RetinaNetHead, FCOSHead, TowerHead or a subclass that keeps their forward.
        features: one (N, C, H, W) per level.

    Returns:
        Tuple: predictions as the stock head returns them, class taps and box taps (per level a
        list of (N, C', H, W)).

    Raises:
        TypeError: the head overrides forward.
    """
    refuse_overrides(head, _HEADS, "run_head_with_taps")
    levels, cls_taps, reg_taps = [], [], []
    for level, x in enumerate(features):
        cls_x, cls_tap = run_tower(head.cls_subnet, x)
        reg_x, reg_tap = run_tower(head.bbox_subnet, x)
        levels.append(predict_level(head, level, cls_x, reg_x))
        cls_taps.append(cls_tap)
        reg_taps.append(reg_tap)
    return [list(maps) for maps in zip(*levels, strict=True)], cls_taps, reg_taps


def predict_level(head: DenseHead, level: int, cls_x: Tensor, reg_x: Tensor) -> Tuple[Tensor, ...]:
    """Predictions of one level, maps (N, A*D, H, W), from the outputs of both towers.

    d2kd's own heads have a method for it; the stock ones apply their predictors.
    """
    if isinstance(head, TowerHead):
        return head.predict(level, cls_x, reg_x)
    maps = head.cls_score(cls_x), head.bbox_pred(reg_x)
    return (*maps, head.ctrness(reg_x)) if hasattr(head, "ctrness") else maps
