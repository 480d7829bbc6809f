"""A label that is none of the model's classes stops a training, whatever loads it and learns it."""

import pytest
import torch
from detectron2.structures import Instances

from d2kd.config.loading import load_config
from d2kd.data import register_custom_datasets
from d2kd.data.labels import check_labels
from d2kd.errors import ConfigError, class_count_key
from tests.faults.broken_steps import SpoiltTrainer, mislabel, spoilt
from tests.helpers import write_config

FAMILIES = ["RetinaNet", "FCOS", "ATSS", "AutoAssign", "DDOD", "GFL", "RepPoints",
            "GeneralizedRCNN"]  # fmt: skip


@pytest.mark.parametrize("meta", FAMILIES)
def test_a_loader_of_the_user_s_own(tmp_path, squares, meta):
    cfg = load_config(str(write_config(tmp_path, squares, meta, MODEL__MASK_ON=False)), [])
    cfg.OUTPUT_DIR, key = str(tmp_path / "out"), class_count_key(meta)
    register_custom_datasets(cfg)
    with spoilt(lambda batch: mislabel(batch, 2), 1):
        trainer = SpoiltTrainer(cfg)
    with pytest.raises(
        ConfigError, match=rf"/\d+\.png has an object of class 2, but {key} has 2: "
    ):
        trainer.train()
    assert trainer.iter == 1


def batch_of(*labels):
    return [{"file_name": f"{i}.png", "instances": Instances((8, 8), gt_classes=torch.tensor(x))}
            for i, x in enumerate(labels)]  # fmt: skip


def test_labels_by_hand():
    empty = torch.empty(0, dtype=torch.long).tolist()
    check_labels([*batch_of([0, 1], empty), {"image": None}], 2, "K")
    check_labels([{"instances": Instances((8, 8))}], 2, "K")
    with pytest.raises(ConfigError, match="^1.png has an object of class -1, but K has 2: give "):
        check_labels(batch_of([0, 1], [1, -1]), 2, "K")
    with pytest.raises(ConfigError, match="^0.png has an object of class 7, .* classes 0 to 1"):
        check_labels(batch_of([7], [1, -1]), 2, "K")
