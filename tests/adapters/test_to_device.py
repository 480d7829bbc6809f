"""Targets on another device: every kind of field, as `Instances.to` has it."""

import torch
from detectron2.structures import BitMasks, Boxes, Instances, Keypoints, PolygonMasks, RotatedBoxes

from d2kd.adapters.to_device import to_device


def test_every_kind_of_field():
    target = Instances(
        (8, 9), gt_boxes=Boxes(torch.tensor([[0.0, 1, 2, 3]])), gt_classes=torch.tensor([2]),
        turned=RotatedBoxes(torch.tensor([[4.0, 4, 2, 2, 45]])), names=["cat"],
        gt_masks=BitMasks(torch.ones(1, 8, 9)), outlines=PolygonMasks([[[0.0, 0, 1, 0, 1, 1]]]),
        gt_keypoints=Keypoints(torch.ones(1, 2, 3)),
    )  # fmt: skip
    moved, stock = to_device(target, torch.device("meta")), target.to(torch.device("meta"))
    assert moved.image_size == (8, 9) and list(moved.get_fields()) == list(stock.get_fields())
    for name, value in moved.get_fields().items():
        assert type(value) is type(stock.get(name)), name
        if hasattr(value, "device"):
            assert value.device == stock.get(name).device
    assert moved.gt_boxes.device.type == moved.gt_classes.device.type == "meta"
    assert moved.names == ["cat"] and target.gt_boxes.device.type == "cpu"
