"""`d2kd compare` finds each of twenty seeded changes, and none between equal runs."""

import json
import math
import re
import shutil

import pytest
import torch
import yaml
from safetensors.torch import save_file

from d2kd import DistillationTrainer
from d2kd.data import build_train_loader, register_custom_datasets
from tests.engine.hooks.test_exact_resume import Interruption, config, train
from tests.helpers import d2kd, write_config

CASE = "RetinaNet, PKD and BCKD"
EQUAL = re.compile(r"^(?!.*differ)([\w.]+(, \w+)?|config and inputs): [\d,]+ \w+ are equal$")


def run(place, squares, name, change=lambda trainer: None, **keys):
    """Four steps; `change` gets the trainer before them."""
    keys = {"SOLVER__MAX_ITER": 4, **keys}
    cfg = config(CASE, place / f"files_{name}", squares, "out", **keys)
    cfg.OUTPUT_DIR = str(place / name)
    torch.manual_seed(1)
    register_custom_datasets(cfg)
    trainer = DistillationTrainer(cfg)
    trainer.resume_or_load(resume=False)
    change(trainer)
    trainer.train()
    return place / name


@pytest.fixture(scope="module")
def place(tmp_path_factory, squares):
    """Two equal runs, `a` and `again`."""
    at = tmp_path_factory.mktemp("runs")
    for name in ("a", "again"):
        (at / f"files_{name}").mkdir()
        run(at, squares, name)
    return at


@pytest.fixture
def another(place, squares):
    """Makes another run and says what `compare` has to say of it."""

    def make(name, *given, **keys):
        (place / f"files_{name}").mkdir()
        return compare(place / "a", run(place, squares, name, *given, **keys))

    return make


def compare(a, b):
    """What differs, of a comparison that ends with 1."""
    done = d2kd("compare", a, b, "--assert-equal")
    assert done.exit_code == 1, done.output
    assert d2kd("compare", a, b).exit_code == 0
    return done.output


def assert_equal(a, b):
    done = d2kd("compare", a, b, "--assert-equal")
    assert done.exit_code == 0, done.output
    return done.output


def test_equal_runs_are_equal(place):
    lines = assert_equal(place / "a", place / "again").splitlines()
    free = [i for i, x in enumerate(lines) if "OUTPUT_DIR" in x]
    assert len(free) == 1 and lines[free[0]].endswith("(does not count)")
    named = [x for x in lines if not x.startswith("  ") and x != "config and inputs"]
    assert all(EQUAL.match(x) for x in named), lines
    counts = {x.split(":")[0]: int(re.search(r": ([\d,]+) ", x)[1].replace(",", "")) for x in named}
    assert counts["model_final.pth, distillation"] == 8 and counts["metrics.json"] > 40
    assert counts["model_final.pth, iteration"] == 1 and counts["results.json"] >= 6


KEYS = {
    "SOLVER__BASE_LR": 0.03,
    "SOLVER__WEIGHT_DECAY": 0.001,
    "INPUT__MIN_SIZE_TRAIN": (48,),
    "MODEL__RETINANET__SCORE_THRESH_TEST": 0.2,
    "DATASETS__TRAIN": ("other",),
}


@pytest.mark.parametrize("key", KEYS)
def test_a_config_key(tmp_path, squares, key):
    a, b = (write_config(tmp_path / name, squares) for name in "ab")
    keys = yaml.safe_load(b.read_text())
    *nodes, last = key.split("__")
    node = keys
    for name in nodes:
        node = node[name]
    before, node[last] = node[last], KEYS[key]
    b.write_text(yaml.safe_dump(json.loads(json.dumps(keys))))
    lines = compare(a, b).splitlines()
    assert lines[0] == "config"
    was = f"{before!r} and is {node[last]!r}".replace("(", "[").replace(",)", "]")
    assert lines[1] == f"  {key.replace('__', '.')} was {was}"
    assert re.fullmatch(r"  \d{3,} keys are equal", lines[-1])


def change_value(state, path, change):
    *nodes, last = path
    for name in nodes:
        state = state[name]
    state[last] = change(state[last])


def one_element(by):
    def change(tensor):
        tensor.view(-1)[-1] += by
        return tensor

    return change


OPTIMIZER = ("trainer", "_trainer", "optimizer", "state", 3, "momentum_buffer")
WEIGHT = "head.cls_score.weight"
ELEMENTS = {
    "weights": (("model", WEIGHT), one_element(1e-3), f"{WEIGHT}, .* 1 of [\\d,]+ elements differ"),
    "nan": (("model", WEIGHT), one_element(math.nan), "1 of .* by at most inf"),
    "projection": (("distillation", "PKD.project.8.weight"), one_element(0.5), "by at most 0.5,"),
    "optimizer": (OPTIMIZER, one_element(1.0), "optimizer.state.3.momentum_buffer, .* 1 of 8"),
    "iteration": (("iteration",), lambda x: x - 2, "iteration"),
}


@pytest.mark.parametrize("which", ELEMENTS)
def test_an_element_of_a_checkpoint(place, tmp_path, which):
    path, change, expected = ELEMENTS[which]
    shutil.copytree(place / "a", tmp_path / "b")
    saved = torch.load(tmp_path / "b" / "model_final.pth")
    change_value(saved, path, change)
    torch.save(saved, tmp_path / "b" / "model_final.pth")
    said = compare(place / "a" / "model_final.pth", tmp_path / "b" / "model_final.pth")
    assert said.startswith(path[0]) and re.search(expected, said.splitlines()[1]), said
    assert "more differ" not in said
    if which != "iteration":  # of which runs compare an earlier checkpoint then
        said = compare(place / "a", tmp_path / "b")
        assert said.startswith(f"model_final.pth, {path[0]}\n"), said


def other_normalizer(trainer):
    trainer.distiller.student.loss_normalizer = 101.0  # stock begins at 100


def other_beta(trainer):
    trainer.distiller.student.smooth_l1_beta += 0.1


CONSTANTS = {
    "normalizer": (other_normalizer, {}),
    "beta": (other_beta, {}),
    "pkd": (None, {"DISTILL__PKD__WEIGHT": 2.0}),
    "bckd": (None, {"DISTILL__BCKD__WEIGHT": 1.5}),
    "alpha": (None, {"MODEL__RETINANET__FOCAL_LOSS_ALPHA": 0.3}),
}


@pytest.mark.parametrize("which", CONSTANTS)
def test_a_constant_of_a_loss(another, which):
    change, keys = CONSTANTS[which]
    lines = another(which, *filter(None, [change]), **keys).splitlines()
    typed = {x.split()[0] for x in lines if x.startswith("  DISTILL.") or x.startswith("  MODEL.")}
    assert typed == {key.replace("__", ".") for key in keys}
    first = lines[lines.index("metrics.json") + 1]
    changed = {"pkd": "(grad_norm/PKD|loss_PKD)", "bckd": "(grad_norm/BCKD|loss_BCKD)"}
    assert re.match(f"  iteration 0: {changed.get(which, 'grad_norm/(box_reg|cls)')}", first), lines
    assert "model_final.pth, model" in lines


def other_order(trainer):
    """Of the same config: the data of another seed."""
    cfg = trainer.cfg.clone()
    cfg.SEED = 9
    trainer._trainer.reset_data_loader(lambda: build_train_loader(cfg))


def one_batch_on(trainer):
    trainer._trainer.reset_data_loader(lambda: build_train_loader(trainer.cfg, 1))


ORDERS = {
    "seed_2": (None, {"SEED": 2}),
    "seed_3": (None, {"SEED": 3}),
    "sampler": (None, {"DATALOADER__SAMPLER_TRAIN": "RandomSubsetTrainingSampler",
                       "DATALOADER__RANDOM_SUBSET_RATIO": 0.5}),
    "order": (other_order, {}),
    "batch": (one_batch_on, {}),
}  # fmt: skip


@pytest.mark.parametrize("which", ORDERS)
def test_the_order_of_data(another, which):
    change, keys = ORDERS[which]
    said = another(which, *filter(None, [change]), **keys)
    for key in keys:
        assert f"  {key.replace('__', '.')} was " in said
    assert re.search(r"^metrics.json\n  iteration 0: \S+ was \S+ and is \S+\n", said, re.M), said
    assert re.search(r"^model_final.pth, model\n  \S+, .* elements differ", said, re.M), said


def test_a_run_that_went_on_longer(place, another):
    """The last checkpoint of one name and iteration, and a key that may change while resuming."""
    said = another("longer", SOLVER__MAX_ITER=6, SOLVER__WARMUP_ITERS=2)
    assert "  SOLVER.MAX_ITER was 4 and is 6\n" in said
    assert "model_0000003.pth, model: " in said and "model_final.pth" not in said
    assert re.search(r"only in B: iteration [45]: ", said)


def test_a_resumed_run_is_equal(place, squares, tmp_path):
    cfg = config(CASE, tmp_path, squares, "parts", SOLVER__MAX_ITER=4)
    with pytest.raises(Interruption):
        train(cfg, stop_before=3)
    train(cfg, resume=True)
    assert_equal(place / "a", tmp_path / "parts")


def test_missing_and_other_tensors(tmp_path):
    a, b = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_file({"a": torch.ones(2), "b": torch.ones(2), "c": torch.ones(2), "e": torch.ones(3)}, a)
    save_file({"b": torch.ones(2), "c": torch.ones(2).half(), "d": torch.ones(2),
               "e": torch.ones(3, 1)}, b)  # fmt: skip
    lines = compare(a, b).splitlines()
    assert lines == [
        "model",
        "  c, was (2,) float32, is (2,) float16: the numbers are equal",
        "  only in A: a (1 tensors)",
        "  only in B: d (1 tensors)",
        "  1 more differ, 1 tensors are equal",
    ]
    torch.save({"model": {"a": torch.tensor([1.0, math.nan]), "n": torch.tensor(2**60)}}, a)
    torch.save({"model": {"a": torch.tensor([1.0, math.nan]), "n": torch.tensor(2**60)}}, b)
    assert assert_equal(a, b) == "model: 2 tensors are equal\n"
    torch.save({"model": {"a": torch.tensor([1.0, math.nan]), "n": torch.tensor(2**60 + 1)}}, b)
    assert "n, () int64: 1 of 1 elements differ" in compare(a, b)


def test_damaged_runs_are_compared_as_far_as_they_are_there(place, tmp_path):
    shutil.copytree(place / "a", tmp_path / "b")
    (tmp_path / "b" / "results.json").unlink()
    with open(tmp_path / "b" / "metrics.json", "a") as file:
        file.write('{"iteration": 5, "tot')
    said = compare(place / "a", tmp_path / "b")
    assert "B: results.json is missing." in said
    assert "B: 1 of 6 lines of metrics.json cannot be read." in said


@pytest.mark.parametrize(("key", "value"), [("DATASETS.TRAIN", 3), ("SOLVER.MAX_ITER", "many")])
def test_a_damaged_run_json_is_one_line(place, tmp_path, key, value):
    shutil.copytree(place / "a", tmp_path / "b")
    record = json.loads((tmp_path / "b" / "run.json").read_text())
    record["inputs"]["config"][key] = value
    (tmp_path / "b" / "run.json").write_text(json.dumps(record))
    done = d2kd("compare", place / "a", tmp_path / "b")
    assert done.exit_code == 2 and "b/run.json holds another config" in done.output


def test_sections_with_names_that_are_no_texts_are_compared(tmp_path):
    for name in "ab":
        torch.save({"model": {"a": torch.ones(1)}, 3: name}, tmp_path / f"{name}.pth")
    assert compare(tmp_path / "a.pth", tmp_path / "b.pth").startswith("3\n  3 was 'a' and is 'b'")


def test_wrong_input_ends_with_2(place, tmp_path):
    for words in (["none.yaml", "none.yaml"], [place / "a", place / "a" / "model_final.pth"],
                  [tmp_path, place / "a"], [place / "a" / "metrics.json"] * 2):  # fmt: skip
        done = d2kd("compare", *words, "--assert-equal")
        assert done.exit_code == 2 and done.output.count("\n") == 2, done.output


def test_a_file_nested_without_end_is_refused(tmp_path):
    nested = []
    nested.append(nested)
    torch.save({"model": {"a": torch.ones(1)}, "trainer": nested}, tmp_path / "a.pth")
    done = d2kd("compare", tmp_path / "a.pth", tmp_path / "a.pth")
    assert done.exit_code == 2 and "nested too deep" in done.output
