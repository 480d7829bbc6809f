"""Images without annotations: no supervised loss, no background, batches of their own."""

import pytest
import torch
from PIL import Image

from d2kd import DistillationTrainer
from d2kd.data import BadImageError, build_train_loader, register_custom_datasets
from d2kd.detectors.loss_normalizer import averages_to_save
from d2kd.errors import ConfigError
from d2kd.testing import make_batch
from tests.engine.hooks.test_exact_resume import config
from tests.engine.test_ddp import worker
from tests.helpers import pair
from tests.ranks import two_ranks


def unlabelled(batch):
    for x in batch:
        x["instances"] = x["instances"][:0]
        x["unlabelled"] = True
    return batch


@pytest.mark.parametrize(
    "meta",
    ["RetinaNet", "FCOS", "ATSS", "AutoAssign", "DDOD", "GFL", "RepPoints", "GeneralizedRCNN"],
)
def test_supervised_losses_are_zero_and_every_parameter_is_used(meta):
    _, model = pair(meta, ("PKD",))
    losses = model(unlabelled(make_batch()))
    task = {k: v for k, v in losses.items() if not k.startswith("loss_PKD")}
    assert task and all(v.item() == 0 for v in task.values())
    assert losses["loss_PKD_feat"] > 0
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    head = [p for name, p in model.student.named_parameters() if "backbone" not in name]
    assert all(p.grad.abs().sum() == 0 for p in head)


@pytest.mark.parametrize("meta", ["RetinaNet", "FCOS", "DDOD"])
def test_the_normalizer_of_labelled_steps_stays(meta):
    (_, model), (_, same) = pair(meta, ("PKD",)), pair(meta, ("PKD",))
    model(unlabelled(make_batch()))
    model(make_batch())
    same(make_batch())
    before = averages_to_save(model.student)
    assert before and before == averages_to_save(same.student)
    model(unlabelled(make_batch()))
    assert averages_to_save(model.student) == before


def count_on_one_rank(rank, folder, meta):
    _, model = pair(meta, ("PKD",))
    model(make_batch(seed=1))
    before = averages_to_save(model.student)["level_counts"]
    model(unlabelled(make_batch()) if rank else make_batch())
    counts = averages_to_save(model.student)["level_counts"]
    torch.save((before, counts), f"{folder}/counts_{rank}.pth")


def test_unlabelled_images_of_one_rank_keep_what_others_count(tmp_path):
    two_ranks(worker, count_on_one_rank, str(tmp_path), "DDOD")
    (before, counts), other = (torch.load(tmp_path / f"counts_{rank}.pth") for rank in (0, 1))
    assert other == (before, counts) and counts != before


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos" / "more"
    folder.mkdir(parents=True)
    for index in range(5):
        Image.new("RGB", (64, 48), (40 * index, 0, 90)).save(folder / f"{index}.jpg")
    return tmp_path / "photos"


def build(tmp_path, squares, folder, **keys):
    keys = {"DATASETS__UNLABELLED": (str(folder),), "SOLVER__MAX_ITER": 3, **keys}
    cfg = config("RetinaNet, PKD and BCKD", tmp_path, squares, "run", **keys)
    register_custom_datasets(cfg)
    return cfg


def test_batches_are_of_one_kind(tmp_path, squares, photos):
    stream = iter(build_train_loader(build(tmp_path, squares, photos)))
    kinds = [{x.get("unlabelled", False) for x in next(stream)} for _ in range(20)]
    assert all(len(kind) == 1 for kind in kinds)
    assert 2 <= sum(kind == {True} for kind in kinds) <= 12  # 5 of 17 images


def test_an_image_that_is_skipped_is_replaced_by_one_of_its_kind(tmp_path, squares, photos):
    """A mapper that fails for the first and last of each kind: the next are of the other."""
    stream = build_train_loader(build(tmp_path, squares, photos, DATALOADER__SKIP_BAD_IMAGES=True))
    data = stream.dataset.dataset
    read, kinds = data.mapper, [x.get("unlabelled", False) for x in data.records]
    ends = {kinds.index(True) - 1, len(kinds) - 1}
    bad = {data.records[place]["file_name"] for place in ends}

    def mapper(record):
        if record["file_name"] in bad:
            raise BadImageError("bad")
        return read(record)

    data.mapper = mapper
    found = [data[place] for place in range(len(kinds))]
    assert [x.get("unlabelled", False) for x in found] == kinds and any(kinds) and not all(kinds)
    assert not bad & {x["file_name"] for x in found}
    bad |= {x["file_name"] for x in data.records if x.get("unlabelled")}
    with pytest.raises(BadImageError, match="no image of DATASETS.UNLABELLED can be read"):
        data[len(kinds) - 1]


def test_training(tmp_path, squares, photos):
    trainer = DistillationTrainer(build(tmp_path, squares, photos, SOLVER__MAX_ITER=6))
    trainer.resume_or_load(resume=False)
    trainer.train()
    values = [x for x, _ in trainer.storage.history("loss_cls").values()]
    assert 0.0 in values and max(values) > 0
    assert all(p.isfinite().all() for p in trainer.model.parameters())
    assert trainer.storage.history("loss_PKD_feat").latest() > 0


def test_errors(tmp_path, squares, photos):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="UNLABELLED: .*empty' is no data set, and no folder"):
        DistillationTrainer(build(tmp_path, squares, tmp_path / "empty"))
    (photos / "broken.jpg").write_bytes(b"no image")
    with pytest.raises(ConfigError, match=r"UNLABELLED: .*broken.jpg cannot be read"):
        DistillationTrainer(build(tmp_path, squares, photos))
    (photos / "broken.jpg").unlink()
    Image.new("F", (64, 48)).save(photos / "float.tif")
    with pytest.raises(ConfigError, match=r"UNLABELLED: 1 images cannot be read: .*float.tif hold"):
        DistillationTrainer(build(tmp_path, squares, photos))
    (photos / "float.tif").unlink()
    cfg = build(tmp_path, squares, photos)
    cfg.MODEL.META_ARCHITECTURE = "RetinaNet"
    with pytest.raises(ConfigError, match="a plain RetinaNet learns nothing from images without"):
        DistillationTrainer(cfg)


def test_labelled_batches_are_as_without_the_flag():
    _, model = pair()
    _, same = pair()
    batch = make_batch()
    flagged = [{**x, "unlabelled": False} for x in batch]
    torch.testing.assert_close(model(batch), same(flagged), rtol=0, atol=0)
