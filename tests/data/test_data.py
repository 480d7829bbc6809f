"""Data sets from yaml, their checks, cleaned boxes and the reproducible loader."""

import copy
import itertools
import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.common import AspectRatioGroupedDataset
from detectron2.structures import BoxMode
from PIL import Image

from d2kd.data import (
    add_data_config,
    build_train_loader,
    check_datasets,
    clean_boxes,
    dataset_num_classes,
    register_custom_datasets,
)
from d2kd.data.builtin import register_builtin_datasets

KEY = "MODEL.RETINANET.NUM_CLASSES"


@pytest.fixture(autouse=True)
def catalogs():
    """Leave Detectron2's catalogs as they were."""
    before = set(DatasetCatalog), set(MetadataCatalog)
    yield
    for catalog, names in zip((DatasetCatalog, MetadataCatalog), before, strict=True):
        for name in set(catalog) - names:
            catalog.remove(name)


def coco_dict(num_images=6, classes=("cell", "debris")):
    """A COCO json of 40 x 24 px images with two boxes each."""
    images = [
        {"id": i, "file_name": f"{i}.png", "width": 40, "height": 24} for i in range(num_images)
    ]
    boxes = [(i, k) for i in range(num_images) for k in range(2)]
    return {
        "images": images,
        "categories": [{"id": k + 1, "name": name} for k, name in enumerate(classes)],
        "annotations": [
            {"id": n, "image_id": i, "category_id": k + 1, "iscrowd": 0, "area": 80}
            | {"bbox": [2 + k, 3, 10, 8]}
            for n, (i, k) in enumerate(boxes, 1)
        ],
    }


def write(root, name, coco):
    """Write json and images under ``root`` and return the entry of DATASETS.CUSTOM."""
    (root / "images").mkdir(exist_ok=True)
    (root / f"{name}.json").write_text(coco if isinstance(coco, str) else json.dumps(coco))
    for i in range(6):
        pixels = np.random.default_rng(i).integers(0, 256, (24, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"{i}.png")
    return [name, str(root / f"{name}.json"), str(root / "images")]


def make_cfg(entries, train=("cells_train",), test=()):
    cfg = get_cfg()
    add_data_config(cfg)
    cfg.DATASETS.CUSTOM = entries
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = train, test
    cfg.SOLVER.IMS_PER_BATCH, cfg.DATALOADER.NUM_WORKERS, cfg.SEED = 2, 0, 5
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = False
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (16, 48), 64
    cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING = "range"
    return cfg


@pytest.fixture
def cfg(tmp_path):
    """A config whose training and test set are registered."""
    entries = [write(tmp_path, name, coco_dict()) for name in ("cells_train", "cells_test")]
    cfg = make_cfg(entries, test=("cells_test",))
    register_custom_datasets(cfg)
    return cfg


# -- naming and registering


def test_yaml_and_command_line(tmp_path):
    entry = write(tmp_path, "cells_train", coco_dict())
    (tmp_path / "c.yaml").write_text(f"DATASETS:\n  CUSTOM:\n    - {json.dumps(entry)}\n")
    cfg = make_cfg([])
    cfg.merge_from_file(str(tmp_path / "c.yaml"))
    assert cfg.DATASETS.CUSTOM == [entry]
    cfg.merge_from_list(["DATASETS.CUSTOM", "[]"])
    cfg.merge_from_list(["DATASETS.CUSTOM", str([entry]), "DATASETS.TRAIN", "('cells_train',)"])
    register_custom_datasets(cfg)
    assert len(DatasetCatalog.get("cells_train")) == 6


def test_relative_paths(tmp_path, monkeypatch):
    for folder in ("env", "work/datasets"):
        (tmp_path / folder).mkdir(parents=True)
    write(tmp_path / "env", "cells_env", coco_dict())
    write(tmp_path / "work" / "datasets", "cells_default", coco_dict())
    write(tmp_path / "work", "cells_here", coco_dict())
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "env"))
    names = ("cells_env", "cells_default", "cells_here")
    register_custom_datasets(make_cfg([[name, f"{name}.json", "images"] for name in names]))
    for name, folder in zip(names, ("env", "work/datasets", "work"), strict=True):
        assert MetadataCatalog.get(name).json_file == str(tmp_path / folder / f"{name}.json")
        assert MetadataCatalog.get(name).image_root == str(tmp_path / "env" / "images")


def test_registering_again(cfg, tmp_path):
    register_custom_datasets(cfg)
    cfg.DATASETS.CUSTOM = [["cells_train", *write(tmp_path, "other", coco_dict())[1:]]]
    with pytest.raises(ValueError, match=r"DATASETS.CUSTOM\[0\]: the name 'cells_train' belongs"):
        register_custom_datasets(cfg)
    cfg.DATASETS.CUSTOM[0][0] = "coco_2017_train"
    with pytest.raises(ValueError, match="'coco_2017_train' belongs to another data set"):
        register_custom_datasets(cfg)


@pytest.mark.parametrize("entry", ["cells", ["a", "b"], ["a", "b", 3], []])
def test_malformed_entry(entry):
    with pytest.raises(ValueError, match=r"DATASETS.CUSTOM\[0\] is .*give a list of"):
        register_custom_datasets(make_cfg([entry]))


def test_missing_json_and_folder(tmp_path):
    name, json_file, images = write(tmp_path, "cells", coco_dict())
    for entry in ([name, "no/such.json", images], [name, json_file, "no/folder"]):
        with pytest.raises(FileNotFoundError, match=r"CUSTOM\[0\] \('cells'\).*no/.*datasets/no/"):
            register_custom_datasets(make_cfg([entry]))
    with pytest.raises(ValueError, match="in this order"):
        register_custom_datasets(make_cfg([[name, images, json_file]]))


def test_evaluator_of_an_entry(tmp_path):
    entry = write(tmp_path, "cells", coco_dict())
    others = [["coco", *entry[1:], "coco"], ["crowd", *entry[1:], "crowdhuman"]]
    cfg = make_cfg([entry, *others])
    for _ in range(2):  # the same entries again are no error
        register_custom_datasets(cfg)
    kinds = [MetadataCatalog.get(name).evaluator_type for name in ("cells", "coco", "crowd")]
    assert kinds == ["coco", "coco", "crowdhuman"]
    assert len(DatasetCatalog.get("crowd")) == 6
    cfg.DATASETS.CUSTOM = [[*entry, "crowdhuman"]]
    with pytest.raises(ValueError, match="the name 'cells' belongs to another data set.*, coco"):
        register_custom_datasets(cfg)


def test_malformed_evaluator(tmp_path):
    entry = write(tmp_path, "cells", coco_dict())
    message = r"CUSTOM\[0\]\[3\]: unknown 'crowd'. Did you mean 'crowdhuman'.*Known: coco, crowd"
    with pytest.raises(ValueError, match=message):
        register_custom_datasets(make_cfg([[*entry, "crowd"]]))
    for more in ([None], ["coco", "coco"]):
        with pytest.raises(ValueError, match=r"CUSTOM\[0\] is .*fourth string, the evaluator"):
            register_custom_datasets(make_cfg([[*entry, *more]]))


def test_builtin_names_follow_the_environment(monkeypatch):
    names = ("crowdhuman_train", "crowdhuman_val")
    assert set(names) <= set(DatasetCatalog)  # by importing d2kd
    monkeypatch.setattr(DatasetCatalog, "data", {})
    monkeypatch.setattr(MetadataCatalog, "data", {})
    monkeypatch.setenv("DETECTRON2_DATASETS", "/elsewhere")
    register_builtin_datasets()
    for name in names:
        metadata = MetadataCatalog.get(name)
        assert metadata.json_file == f"/elsewhere/crowdhuman/annotations/{name}.json"
        assert metadata.image_root == "/elsewhere/crowdhuman/Images"
        assert metadata.evaluator_type == "crowdhuman"
    with pytest.raises(FileNotFoundError, match="crowdhuman_val.json"):
        DatasetCatalog.get("crowdhuman_val")
    register_builtin_datasets()  # again is no error


# -- checks


def test_good_datasets_pass(cfg):
    check_datasets(cfg, 2, KEY)
    assert dataset_num_classes("cells_train") == 2


def test_nothing_is_read_twice(cfg, monkeypatch):
    reads = []
    for name in ("cells_train", "cells_test"):
        read = DatasetCatalog[name]
        DatasetCatalog[name] = lambda name=name, read=read: reads.append(name) or read()
    build_train_loader(cfg)
    check_datasets(cfg, 2, KEY)
    assert reads == ["cells_train", "cells_test"]


def test_number_of_classes(cfg):
    with pytest.raises(ValueError, match=f"{KEY} is 80, but .*'cells_train' has 2.*Set {KEY} to 2"):
        check_datasets(cfg, 80, KEY)


def test_order_of_classes(cfg, tmp_path):
    entry = write(tmp_path, "cells_val", coco_dict(classes=("debris", "cell")))
    cfg.DATASETS.CUSTOM, cfg.DATASETS.TEST = [entry], ("cells_val",)
    register_custom_datasets(cfg)
    with pytest.raises(ValueError, match="class 0 is 'cell' in 'cells_train' and 'debris' in"):
        check_datasets(cfg, 2, KEY)


def test_unknown_name(cfg):
    cfg.DATASETS.TEST = ("cell_test",)
    with pytest.raises(ValueError, match="DATASETS.TEST: no data set .*Did you mean cells_test"):
        check_datasets(cfg, 2, KEY)
    cfg.DATASETS.TRAIN = ()
    for check in (build_train_loader, lambda cfg: check_datasets(cfg, 2, KEY)):
        with pytest.raises(ValueError, match="DATASETS.TRAIN is empty"):
            check(cfg)


def test_evaluation_needs_no_training_set(cfg):
    cfg.DATASETS.TRAIN = ("not_here",)
    check_datasets(cfg, 2, KEY, train=False)
    with pytest.raises(ValueError, match="'cells_test' has 2 classes"):
        check_datasets(cfg, 3, KEY, train=False)


def test_missing_builtin_dataset(monkeypatch):
    name = "builtin_without_files"
    monkeypatch.setitem(DatasetCatalog.data, name, lambda: open("no/such.json"))
    with pytest.raises(FileNotFoundError, match="needs no/such.json. Set DETECTRON2_DATASETS"):
        build_train_loader(make_cfg([], train=(name,)))


def broken_jsons():
    coco = coco_dict()
    yield "{", "is not valid json"
    yield "[]", "it holds no images"
    yield {**coco, "images": []}, "it has no list of images"
    yield {**coco, "annotations": []}, "6 images and no annotation"
    yield {**coco, "categories": []}, "it has no list of categories"
    yield (
        {**coco, "categories": coco["categories"][:1]},
        "6 annotations are of classes that are not",
    )
    yield {k: v for k, v in coco.items() if k != "categories"}, "it has no list of categories"
    without = [{k: v for k, v in a.items() if k != "bbox"} for a in coco["annotations"]]
    yield {**coco, "annotations": without}, "12 boxes are not four numbers, ids: 1, 2, 3"


@pytest.mark.parametrize("check", [build_train_loader, lambda cfg: check_datasets(cfg, 2, KEY)])
@pytest.mark.parametrize(("coco", "message"), list(broken_jsons()))
def test_broken_json(tmp_path, coco, message, check):
    cfg = make_cfg([write(tmp_path, "cells_train", coco)])
    register_custom_datasets(cfg)
    with pytest.raises(ValueError, match=rf"DATASETS.TRAIN: 'cells_train'.*{message}"):
        check(cfg)


def test_broken_test_set_fails_before_training(cfg, tmp_path):
    cfg.DATASETS.CUSTOM = [write(tmp_path, "cells_val", {**coco_dict(), "images": []})]
    cfg.DATASETS.TEST = ("cells_val",)
    register_custom_datasets(cfg)
    with pytest.raises(ValueError, match="DATASETS.TEST: 'cells_val'.*no list of images"):
        check_datasets(cfg, 2, KEY)


def test_missing_images(cfg, tmp_path):
    (tmp_path / "images" / "1.png").unlink()
    with pytest.raises(
        FileNotFoundError, match="names the image .*1.png.*Correct the image folder"
    ):
        build_train_loader(cfg)


def test_category_out_of_range_and_unknown_classes():
    box = {"bbox": [0, 0, 4, 4], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 2}
    record = {"file_name": __file__, "width": 40, "height": 24, "annotations": [box]}
    DatasetCatalog.register("own", lambda: [record])
    cfg = make_cfg([], train=("own",))
    with pytest.raises(ValueError, match=r"set MetadataCatalog.get\('own'\).thing_classes"):
        check_datasets(cfg, 2, KEY)
    MetadataCatalog.get("own").thing_classes = ["a", "b"]
    with pytest.raises(
        ValueError,
        match=r"/test_data.py has category_id 2, but there are 2 classes: ids must be 0 to 1",
    ):
        build_train_loader(cfg)


# -- boxes


def record(*boxes, mode=BoxMode.XYXY_ABS):
    annotations = [{"bbox": list(box), "bbox_mode": mode, "category_id": 0} for box in boxes]
    return {"file_name": "x", "width": 100, "height": 50, "annotations": annotations}


def boxes_of(records):
    return [[a["bbox"] for a in r["annotations"]] for r in records]


def test_good_boxes_are_the_same_objects(caplog):
    good = record((0, 0, 100, 50), (3, 3, 3.5, 49), (99, 49, 100.005, 50))
    assert clean_boxes([good])[0] is good
    assert not caplog.records


def test_clip_and_drop_in_both_modes(caplog):
    corners = [(-5, 2, 10, 60), (90, 10, 120, 20), (10, 10, 10, 20), (100, 5, 130, 9)]
    corners += [(math.nan, 0, 1, 1), (0, 0, math.inf, 1), (20, 20, 10, 30), (1, 1, 2, 2)]
    wanted = torch.tensor([[0.0, 2, 10, 50], [90, 10, 100, 20], [1, 1, 2, 2]])
    sizes = [(x0, y0, x1 - x0, y1 - y0) for x0, y0, x1, y1 in corners]
    for mode, boxes in ((BoxMode.XYXY_ABS, corners), (BoxMode.XYWH_ABS, sizes)):
        caplog.clear()
        records = [record(*boxes, mode=mode)]
        before = copy.deepcopy(records[0]["annotations"][:2])
        kept = clean_boxes(records, "cells")[0]["annotations"]
        assert [a["bbox_mode"] for a in kept] == [mode] * 3
        result = [BoxMode.convert(a["bbox"], mode, BoxMode.XYXY_ABS) for a in kept]
        torch.testing.assert_close(torch.tensor(result), wanted)
        assert [r.getMessage() for r in caplog.records] == [
            "cells: 2 of 8 boxes reached outside their image and were clipped, "
            "5 had no area in it and were dropped."
        ]
        assert len(records[0]["annotations"]) == 8 and records[0]["annotations"][:2] == before


def test_what_is_left_alone():
    crowd = record((-5, 0, 10, 10), (1, 1, 2, 2))
    crowd["annotations"][0].update(iscrowd=1, segmentation={"size": [50, 100]})
    rotated = record((-5, 5, 10, 10, 30), mode=BoxMode.XYWHA_ABS)
    empty, unlabelled = record(), {"file_name": "x"}
    cleaned = clean_boxes([crowd, empty, unlabelled, rotated])
    first = cleaned[0]["annotations"][0]
    assert first["iscrowd"] == 1 and first["bbox"] == [0, 0, 10, 10]
    assert first["segmentation"] is crowd["annotations"][0]["segmentation"]
    assert cleaned[0]["annotations"][1] is crowd["annotations"][1]
    assert cleaned[1] is empty and cleaned[2] is unlabelled and cleaned[3] is rotated


def test_no_usable_box_is_an_error():
    with pytest.raises(ValueError, match="cells: none of the 2 boxes has an area"):
        clean_boxes([record((5, 5, 5, 5)), record((200, 0, 210, 5))], "cells")
    assert clean_boxes([]) == []


# -- loader


def items(loader, count=20, disturb=False):
    """The first items as (image, boxes), with the global generators advanced in between."""
    result = []
    for batch in loader:
        for item in batch:
            result.append((item["file_name"], item["image"], item["instances"].gt_boxes.tensor))
        if disturb:
            np.random.rand(7), torch.rand(7), random.random()
        if len(result) >= count:
            return result[:count]


def assert_same(ours, theirs):
    assert [item[0] for item in ours] == [item[0] for item in theirs]
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a[1:], b[1:], rtol=0, atol=0)


@pytest.mark.parametrize(
    "sampler",
    ["TrainingSampler", "RepeatFactorTrainingSampler", "RandomSubsetTrainingSampler"],
)
def test_same_images_whatever_the_model_draws(cfg, sampler):
    cfg.DATALOADER.SAMPLER_TRAIN, cfg.DATALOADER.RANDOM_SUBSET_RATIO = sampler, 0.7
    torch.manual_seed(0)
    first = items(build_train_loader(cfg))
    torch.manual_seed(1)
    np.random.seed(1)
    assert_same(first, items(build_train_loader(cfg), disturb=True))
    assert len({tuple(image.shape) for _, image, _ in first}) > 5  # augmented
    cfg.SEED = 6
    assert [i[0] for i in first] != [i[0] for i in items(build_train_loader(cfg))]


def test_same_images_for_any_number_of_workers(cfg):
    first = items(build_train_loader(cfg))
    cfg.DATALOADER.NUM_WORKERS = 2
    assert_same(first, items(build_train_loader(cfg)))


def test_ranks_share_one_stream(cfg, monkeypatch):
    whole = items(build_train_loader(cfg), 8)
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 2)
    for rank in range(2):
        monkeypatch.setattr("detectron2.utils.comm.get_rank", lambda rank=rank: rank)
        assert_same(whole[rank::2], items(build_train_loader(cfg), 4))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("grouped", [False, True])
def test_resume(cfg, grouped, workers):
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = grouped
    whole = items(build_train_loader(cfg))
    cfg.DATALOADER.NUM_WORKERS = workers
    assert_same(whole[6:], items(build_train_loader(cfg, start_iter=3), 14))


def test_groups_are_those_of_detectron2(tmp_path):
    """Wide and tall images, batched as by its own AspectRatioGroupedDataset."""
    coco = coco_dict()
    for image in coco["images"][::2]:
        image["width"], image["height"] = image["height"], image["width"]
    name, path, root = write(tmp_path, "cells_train", coco)
    for image in coco["images"][::2]:
        tall = Image.open(Path(root) / image["file_name"]).transpose(Image.Transpose.ROTATE_90)
        tall.save(Path(root) / image["file_name"])
    cfg = make_cfg([[name, path, root]])
    register_custom_datasets(cfg)
    single = itertools.islice(iter(build_train_loader(cfg)), 12)
    stock = AspectRatioGroupedDataset((x for batch in single for x in batch), 2)
    expected = [x["image_id"] for batch in stock for x in batch]
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = True
    found = itertools.islice(iter(build_train_loader(cfg)), len(expected) // 2)
    assert [x["image_id"] for batch in found for x in batch] == expected
    assert expected != sorted(expected) and len(expected) >= 16


def test_global_generators_keep_their_state(cfg):
    np.random.seed(3)
    random.seed(3)
    expected = np.random.RandomState(3).rand(), random.Random(3).random()
    items(build_train_loader(cfg), 4)
    assert (np.random.rand(), random.random()) == expected


def test_negative_seed_is_random(cfg):
    cfg.SEED = -1
    np.random.seed(0)
    first, second = (items(build_train_loader(cfg)) for _ in range(2))
    assert [i[0] for i in first] != [i[0] for i in second]


def test_empty_images(tmp_path):
    coco = coco_dict()
    coco["annotations"] = [a for a in coco["annotations"] if a["image_id"] < 3]
    coco["annotations"][0]["bbox"] = coco["annotations"][1]["bbox"] = [50, 0, 5, 5]
    cfg = make_cfg([write(tmp_path, "cells_train", coco)])
    register_custom_datasets(cfg)
    assert {i[0][-5:] for i in items(build_train_loader(cfg), 12)} == {"1.png", "2.png"}
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    assert len({i[0] for i in items(build_train_loader(cfg), 12)}) == 6


def test_nothing_left_after_filtering(tmp_path):
    coco = coco_dict()
    for annotation in coco["annotations"]:
        annotation["iscrowd"] = 1
    cfg = make_cfg([write(tmp_path, "cells_train", coco)])
    register_custom_datasets(cfg)
    with pytest.raises(ValueError, match="DATALOADER.FILTER_EMPTY_ANNOTATIONS drops the others"):
        build_train_loader(cfg)


def test_unknown_sampler(cfg):
    cfg.DATALOADER.SAMPLER_TRAIN = "WeightedTrainingSampler"
    with pytest.raises(ValueError, match="DATALOADER.SAMPLER_TRAIN is 'Weighted"):
        build_train_loader(cfg)


def test_catalog_records_are_not_modified(cfg):
    records = DatasetCatalog.get("cells_train")
    records[0]["annotations"][0]["bbox"] = [-3, 0, 10, 10]
    before = copy.deepcopy(records)
    DatasetCatalog["cells_train"] = lambda: records
    items(build_train_loader(cfg), 6)
    assert records == before
