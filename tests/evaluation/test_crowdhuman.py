"""CrowdHuman's evaluator on registered data: ranks, trainer, teacher check, persons of COCO."""

import json
import os

import pytest
import torch
import torch.distributed as dist
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, BoxMode, Instances
from detectron2.utils import comm
from numpy.testing import assert_allclose
from PIL import Image

from d2kd import DistillationTrainer
from d2kd.config.defaults import get_d2kd_cfg
from d2kd.data import register_custom_datasets
from d2kd.engine.hooks.first_images import FirstImages
from d2kd.evaluation import CrowdHumanEvaluator
from d2kd.evaluation.crowd_metrics import average_precision
from tests.engine.test_train import run
from tests.evaluation.test_crowd_metrics import random_images, reference
from tests.helpers import write_config
from tests.ranks import two_ranks


@pytest.fixture
def catalogs():
    before = set(DatasetCatalog)
    yield
    for name in set(DatasetCatalog) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def register(tmp_path, name="crowd", classes=("person",), crowd=(False, True)):
    """Three images of 40 x 60 px with an object and, in the first one, a region to ignore."""
    annotations = [
        {"image_id": i, "category_id": 1, "bbox": [5 + i, 5, 20, 20], "area": 400, "iscrowd": 0}
        for i in range(3)
    ]
    annotations.append({**annotations[0], "bbox": [40, 10, 20, 20], "iscrowd": 1})
    coco = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 60, "height": 40} for i in range(3)],
        "annotations": [{"id": n, **x} for n, x in enumerate(annotations, 1)],
        "categories": [{"id": n, "name": x} for n, x in enumerate(classes, 1)],
    }
    (tmp_path / "crowd.json").write_text(json.dumps(coco))
    for i in range(3):
        Image.new("RGB", (60, 40)).save(tmp_path / f"{i}.jpg")
    cfg = get_d2kd_cfg()
    cfg.DATASETS.CUSTOM = [[name, str(tmp_path / "crowd.json"), str(tmp_path), "crowdhuman"]]
    register_custom_datasets(cfg)
    cfg.OUTPUT_DIR = str(tmp_path)
    return cfg


def outputs(i, label=0):
    found = Instances((40, 60))
    found.pred_boxes = Boxes(torch.tensor([[5.0 + i, 5, 25 + i, 25], [40.0, 10, 60, 30]]))
    found.scores, found.pred_classes = torch.tensor([0.9, 0.3 + i / 10]), torch.full((2,), label)
    return {"instances": found}


def test_evaluator(tmp_path, catalogs):
    cfg = register(tmp_path)
    evaluator = DistillationTrainer.build_evaluator(cfg, "crowd")
    evaluator.process([{"image_id": i} for i in range(3)], [outputs(i) for i in range(3)])
    records = [evaluator._records[i] for i in range(3)]
    assert [len(x.scores) for x in records] == [1, 2, 2]
    ap, mr = average_precision(records)
    found = evaluator.evaluate()["bbox"]
    assert_allclose([found["AP"], found["MR"]], [100 * ap, 100 * mr])
    assert_allclose(found["JI"], 100, atol=1e-3)
    assert found["JI-score"] == 0.5
    evaluator.reset()
    with pytest.raises(ValueError, match="no image of 'crowd' was processed"):
        evaluator.evaluate()
    with pytest.raises(ValueError, match="'crowd' has no image 7"):
        evaluator.process([{"image_id": 7}], [outputs(0)])


def test_one_class_of_many(tmp_path, catalogs):
    register(tmp_path, classes=("person", "dog"))
    evaluator = CrowdHumanEvaluator("crowd")
    evaluator.process([{"image_id": 0}], [outputs(0, label=1)])
    assert len(evaluator._records[0].scores) == 0
    with pytest.raises(ValueError, match="no annotated 'dog'"):
        CrowdHumanEvaluator("crowd", "dog")
    with pytest.raises(ValueError, match="no class 'cat'.*it has person, dog"):
        CrowdHumanEvaluator("crowd", "cat")


def test_builtin_names_wait_for_their_files():
    assert MetadataCatalog.get("crowdhuman_val").evaluator_type == "crowdhuman"
    if not os.path.isfile(MetadataCatalog.get("crowdhuman_val").json_file):
        with pytest.raises(FileNotFoundError, match=r"crowdhuman_val.json.*DETECTRON2_DATASETS"):
            CrowdHumanEvaluator("crowdhuman_val")


def evaluate_images(order, images):
    """Results of detections given in some order of the images, of all ranks together."""
    records = []
    for i, (_, _, objects, ignore, (height, width)) in enumerate(images):
        box = {"bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}
        notes = [{**box, "bbox": list(x), "iscrowd": 0} for x in objects]
        notes += [{**box, "bbox": list(x), "iscrowd": 1} for x in ignore]
        size = {"height": height, "width": width}
        records.append({"image_id": i, "file_name": __file__, "annotations": notes, **size})
    if "random" not in DatasetCatalog:
        DatasetCatalog.register("random", lambda: records)
        MetadataCatalog.get("random").thing_classes = ["person"]
    evaluator = CrowdHumanEvaluator("random")
    for i in order:
        boxes, scores, _, _, size = images[i]
        found = Instances(size, pred_boxes=Boxes(torch.tensor(boxes)))
        found.scores, found.pred_classes = torch.tensor(scores), torch.zeros(len(boxes))
        evaluator.process([{"image_id": i}], [{"instances": found}])
    return evaluator.evaluate()


def evaluate_half(rank, folder):
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", world_size=2, rank=rank)
    comm.create_local_process_group(2)
    order = range(6, 12) if rank == 0 else (3, 5, 0, 1, 2, 4, 6)  # as padded samplers: one twice
    results = evaluate_images(order, random_images(3, digits=1))
    with open(f"{folder}/{rank}.json", "w") as f:
        json.dump(results, f)
    dist.destroy_process_group()


def test_order_and_ranks_do_not_matter_even_for_equal_scores(tmp_path, catalogs):
    images = random_images(3, digits=1)
    expected = evaluate_images(range(12), images)
    found = expected["bbox"]
    wanted = reference([(torch.tensor(b).float().numpy(), *rest) for b, *rest in images])
    assert_allclose([found["AP"], found["MR"]], [100 * x for x in wanted], atol=1e-6)
    assert 5 < found["AP"] < 90 and 5 < found["MR"] < 95 and 5 < found["JI"] < 95
    assert evaluate_images(range(11, -1, -1), images) == expected
    two_ranks(evaluate_half, str(tmp_path))
    assert json.loads((tmp_path / "0.json").read_text()) == expected
    assert json.loads((tmp_path / "1.json").read_text()) == {}


class Oracle(torch.nn.Module):
    """A detector that finds every object of `register`."""

    def forward(self, batched_inputs):
        return [outputs(x["image_id"]) for x in batched_inputs]


def test_teacher_check_gives_box_ap(tmp_path, catalogs):
    """`DISTILL.TEACHER.CHECK_IMAGES` is COCO's AP whatever the test set's evaluator is."""
    cfg = register(tmp_path)
    cfg.DATASETS.TEST, cfg.DATALOADER.NUM_WORKERS = ("crowd",), 0
    assert FirstImages(cfg, 2).evaluate(Oracle(), "BGR").ap == pytest.approx(100)


def test_training_ends_with_the_three_numbers(tmp_path, squares, catalogs):
    coco = json.loads((squares / "squares.json").read_text())
    coco["categories"][1]["name"] = "person"
    (tmp_path / "crowd.json").write_text(json.dumps(coco))
    entry = ["crowd_squares", str(tmp_path / "crowd.json"), str(squares), "crowdhuman"]
    names = {"DATASETS__TRAIN": ("crowd_squares",), "DATASETS__TEST": ("crowd_squares",)}
    path = write_config(tmp_path, squares, DATASETS__CUSTOM=[entry], **names)
    run(path, "SOLVER.MAX_ITER", 1, "TEST.EVAL_PERIOD", 1)
    rows = (tmp_path / "out" / "metrics.json").read_text().splitlines()
    row = {key: value for x in rows for key, value in json.loads(x).items()}
    assert {"bbox/AP", "bbox/MR", "bbox/JI", "bbox/JI-score"} <= set(row)
    assert 0 <= row["bbox/MR"] <= 100


def test_a_test_set_without_persons_fails_before_training(tmp_path, squares, catalogs):
    entry = ["no_person", str(squares / "squares.json"), str(squares), "crowdhuman"]
    names = {"DATASETS__TRAIN": ("no_person",), "DATASETS__TEST": ("no_person",)}
    path = write_config(tmp_path, squares, DATASETS__CUSTOM=[entry], **names)
    with pytest.raises(ValueError, match="'no_person' has no class 'person'.*it has red, green"):
        run(path)
    assert not (tmp_path / "out" / "metrics.json").exists()


def test_a_data_set_without_class_names(catalogs):
    box = {"bbox": [0, 0, 4, 4], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}
    record = {"file_name": __file__, "image_id": 0, "width": 9, "height": 9, "annotations": [box]}
    DatasetCatalog.register("nameless", lambda: [record])
    with pytest.raises(ValueError, match=r"MetadataCatalog.get\('nameless'\).thing_classes"):
        CrowdHumanEvaluator("nameless")


def test_persons_of_coco(data_root, catalogs):
    """The objects themselves as detections: everything is found, nothing is wrong."""
    cfg = get_d2kd_cfg()
    folder = data_root / "coco"
    entry = ["coco_crowd", str(folder / "annotations" / "instances_val2017.json"),
             str(folder / "val2017"), "crowdhuman"]  # fmt: skip
    cfg.DATASETS.CUSTOM = [entry]
    register_custom_datasets(cfg)
    evaluator = CrowdHumanEvaluator("coco_crowd")
    for image_id, (objects, _, size) in evaluator._truth.items():
        found = Instances(size)
        found.pred_boxes = Boxes(torch.tensor(objects, dtype=torch.float32))
        found.scores = torch.full((len(objects),), 0.95)
        found.pred_classes = torch.zeros(len(objects), dtype=torch.long)
        evaluator.process([{"image_id": image_id}], [{"instances": found}])
    results = evaluator.evaluate()["bbox"]
    assert results["AP"] > 98 and results["MR"] < 1 and results["JI"] > 99
    assert sum(len(x[0]) for x in evaluator._truth.values()) > 100
