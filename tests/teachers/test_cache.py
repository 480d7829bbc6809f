"""The teacher cache: equal losses, hits by content alone, bounds, broken files, bad options."""

import random
import shutil
import time

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from d2kd import DistillationTrainer, Teacher
from d2kd.config.defaults import get_d2kd_cfg
from d2kd.config.loading import merge_config_file
from d2kd.data import register_custom_datasets
from d2kd.teachers import cache as cache_module
from d2kd.teachers.cache import OutputCache
from d2kd.teachers.cache_clock import CacheClock
from d2kd.teachers.cache_estimate import CacheEstimate, estimate_cache
from d2kd.teachers.cached_image import _rounded
from d2kd.teachers.store import TensorStore
from d2kd.testing import make_batch
from tests.helpers import d2kd, detector, distill, pair, write_config

CASES = [
    ("RetinaNet", ("PKD", "BCKD"), {}),
    ("RetinaNet", ("BCKD",), {}),
    ("FCOS", ("PGD",), {}),
    ("ATSS", ("CrossKD", "PGD"), {}),
    ("AutoAssign", ("PGD",), {}),
    ("DDOD", ("CrossKD", "PGD"), {}),
    ("RepPoints", ("BCKD", "CrossKD"), {}),
    ("GFL", ("LD", "CWD"), {}),
    ("GFL", ("Parallel",), {"MODEL__GFL__QUALITY": "SDGQP"}),
    ("GeneralizedRCNN", ("StructuredKD", "RoIKD"), {}),
    ("GeneralizedRCNN", ("RoIKD", "MaskKD"), {"MODEL__MASK_ON": True}),
    ("RetinaNet", ("SetKD",), {}),
    ("RetinaNet", ("SetKD", "PKD"), {}),
    ("GeneralizedRCNN", ("SetKD", "PKD"), {}),
]


def cached(model, folder, limit=10**9):
    teacher = model.teachers[0]
    teacher.cache = OutputCache(TensorStore(folder, limit), teacher.adapter, "test")
    return model


def losses_of(model, batch):
    torch.manual_seed(0)
    return {k: v.detach() for k, v in model(batch).items() if k.split("_")[1] in model.heads}


def hits(storage):
    return storage.histories()["teacher_cache/hits"].latest()


@pytest.mark.parametrize(("meta", "heads", "keys"), CASES)
def test_losses_do_not_change(tmp_path, event_storage, meta, heads, keys):
    options = {"CrossKD": {"BLOCK": 1}, "SetKD": {"SCORE": 0.06, "SCORE_LOW": 0.055}}
    _, model = pair(meta, heads, 8, options, **keys)
    batch = make_batch()
    plain = losses_of(model, batch)
    cached(model, tmp_path)
    missed = losses_of(model, batch)
    assert hits(event_storage) == 0
    if set(heads) <= {"SetKD", "PKD"}:  # which read nothing of what was suppressed
        stored = load_file(next(tmp_path.rglob("*.safetensors")))
        assert {x.split("/")[0].split()[0] for x in stored} <= {"features", "set"}
    model.teachers[0].run = None  # what is read must do
    found = losses_of(model, batch)
    assert hits(event_storage) == 1
    assert_close(missed, plain)
    assert_close(found, missed, rtol=0, atol=0)


def test_what_is_stored_already_does_not_change_a_bit(tmp_path, event_storage):
    _, model = pair(heads=("PKD", "BCKD"))
    batch, other = make_batch(seed=1), make_batch(seed=2)
    mixed = [batch[0], other[1]]
    plain = losses_of(model, mixed)
    fresh = losses_of(cached(model, tmp_path / "fresh"), mixed)
    assert hits(event_storage) == 0
    losses_of(cached(model, tmp_path / "used"), batch)
    assert_close(losses_of(model, mixed), fresh, rtol=0, atol=0)
    assert hits(event_storage) == 0.5
    assert_close(fresh, plain)


def test_what_kind_of_set_it_is_stays(tmp_path, event_storage):
    """Detections alone, of other RoI heads than the standard ones, are labels when stored, too."""
    teacher = detector("GeneralizedRCNN", seed=1)
    teacher.roi_heads.train_on_pred_boxes = True  # which no adapter replays
    model = distill(detector("GeneralizedRCNN"), [teacher], ("SetKD",)).train()
    plain = losses_of(model, make_batch())
    cached(model, tmp_path)
    assert_close(losses_of(model, make_batch()), plain)
    assert_close(losses_of(model, make_batch()), plain)
    sets = model.run_teachers(make_batch(), None)[0].sets
    assert hits(event_storage) == 1 and bool(sets.labels.all())


def test_padding_is_part_of_the_key(tmp_path, event_storage):
    _, model = pair(heads=("PKD",))
    small, large = make_batch([(64, 64)])[0], make_batch([(128, 96)])[0]
    expected = losses_of(model, [small, large])
    losses_of(cached(model, tmp_path), [small])
    assert_close(losses_of(model, [small, large]), expected)
    assert hits(event_storage) == 0


def test_other_weights_other_settings_other_needs(tmp_path, event_storage):
    _, model = pair(heads=("PKD",))
    batch, teacher = make_batch(), model.teachers[0]
    losses_of(cached(model, tmp_path), batch)
    store = TensorStore(tmp_path, 10**9)
    teacher.cache = OutputCache(store, teacher.adapter, "other settings")
    losses_of(model, batch)
    assert hits(event_storage) == 0
    next(teacher.detector.parameters()).data.add_(1)
    losses_of(cached(model, tmp_path), batch)
    assert hits(event_storage) == 0
    _, model = pair(heads=("PKD", "BCKD"))
    losses_of(cached(model, tmp_path), batch)
    assert hits(event_storage) == 0


def test_half_precision_is_kept(tmp_path):
    _, model = pair(heads=("PKD", "BCKD"))
    model.panel.teachers = [Teacher(model.teachers[0].detector, precision="bf16")]
    batch = make_batch()
    expected = losses_of(model, batch)
    losses_of(cached(model, tmp_path), batch)
    assert_close(losses_of(model, batch), expected, rtol=0, atol=0)


def test_the_limit_holds(tmp_path, event_storage, caplog):
    _, model = pair(heads=("PKD",))
    losses_of(cached(model, tmp_path / "a"), make_batch(seed=1))
    one = sum(x.stat().st_size for x in (tmp_path / "a").rglob("*.safetensors")) // 2
    cached(model, tmp_path / "b", limit=int(1.5 * one))
    for seed in (1, 1, 2):
        losses_of(model, make_batch(seed=seed))
    files = list((tmp_path / "b").rglob("*.*"))
    assert len(files) == 1 and sum(x.stat().st_size for x in files) < 1.5 * one
    assert caplog.text.count("CACHE_GB is reached") == 1


@pytest.mark.parametrize("keep", [0, 7, 200])
def test_a_broken_file_is_computed_again(tmp_path, event_storage, caplog, keep):
    _, model = pair(heads=("PKD",))
    batch = make_batch()
    expected = losses_of(cached(model, tmp_path), batch)
    for path in tmp_path.rglob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:keep])
    assert_close(losses_of(model, batch), expected, rtol=0, atol=0)
    assert hits(event_storage) == 0 and "computed again" in caplog.text
    losses_of(model, batch)
    assert hits(event_storage) == 1


def test_a_vanished_folder_does_not_stop_training(tmp_path, caplog):
    _, model = pair(heads=("PKD",))
    cached(model, tmp_path / "cache")
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "cache").write_text("a file now")
    losses_of(model, make_batch())
    assert "nothing more is stored" in caplog.text


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"DISTILL\.TEACHER\.CACHE_DIR cannot be written to"):
        TensorStore(tmp_path / "file" / "cache", 1)


def nothing_is_stored_by_what_does_not_train(cfg, folder):
    cfg = cfg.clone()
    cfg.DISTILL.TEACHER.CACHE_DIR = str(folder / "none")
    (folder / "cached.yaml").write_text(cfg.dump())
    done = d2kd("check", folder / "cached.yaml", "DISTILL.TEACHER.CACHE_BITS", 16)
    assert done.exit_code == 0 and "CACHE_BITS" not in done.output, done.output
    assert not (folder / "none").exists()


def two_teachers_share_it(cfg, folder):
    """Three images fit, so each of them may store one."""
    cfg, one = cfg.clone(), next((folder / "cache").rglob("*.safetensors")).stat().st_size
    path, weights = cfg.DISTILL.TEACHER.CONFIG_FILES[0], cfg.DISTILL.TEACHER.WEIGHTS[0]
    torch.save({"model": detector(MODEL__RETINANET__NUM_CLASSES=2).state_dict()}, folder / "u.pth")
    cfg.DISTILL.HEADS, cfg.DISTILL.CWD.TEACHER = ("PKD", "CWD"), 1
    cfg.DISTILL.TEACHER.CONFIG_FILES = path, path
    cfg.DISTILL.TEACHER.WEIGHTS = weights, str(folder / "u.pth")
    cfg.DISTILL.TEACHER.CACHE_DIR = str(folder / "shared")
    cfg.DISTILL.TEACHER.CACHE_GB, cfg.OUTPUT_DIR = 3e-9 * one, str(folder / "two")
    DistillationTrainer(cfg).train()
    assert len(list((folder / "shared").rglob("*.safetensors"))) == 2


def test_from_a_config(tmp_path, squares, monkeypatch):
    """The trainer's own path: two runs, the second one only reads."""
    monkeypatch.setenv("HOME", str(tmp_path))
    path = write_config(tmp_path, squares, SOLVER__MAX_ITER=3)
    teacher = detector(MODEL__RETINANET__NUM_CLASSES=2, seed=7)
    torch.save({"model": teacher.state_dict()}, tmp_path / "t.pth")
    cfg = get_d2kd_cfg()
    merge_config_file(cfg, str(path), "")
    cfg.merge_from_list([
        "MODEL.META_ARCHITECTURE", "Distiller", "DISTILL.STUDENT", "RetinaNet",
        "DISTILL.HEADS", ("PKD",), "DISTILL.TEACHER.CONFIG_FILES", (str(path),),
        "DISTILL.TEACHER.WEIGHTS", (str(tmp_path / "t.pth"),),
        "DISTILL.TEACHER.CHANNELS_LAST", True, "INPUT.RANDOM_FLIP", "none",
        "DISTILL.TEACHER.CACHE_DIR", "~/cache",
    ])  # fmt: skip
    register_custom_datasets(cfg)
    found = []
    for run in range(2):
        torch.manual_seed(0)
        cfg.OUTPUT_DIR = str(tmp_path / f"run{run}")
        trainer = DistillationTrainer(cfg)
        trainer.train()
        found.append({k: v.clone() for k, v in trainer.distiller.state_dict().items()})
        hit = trainer.storage.histories()["teacher_cache/hits"].values()
        assert [x for x, _ in hit][-1] == 1 if run else [x for x, _ in hit][0] == 0
    assert_close(found[0], found[1], rtol=0, atol=0)
    nothing_is_stored_by_what_does_not_train(cfg, tmp_path)
    two_teachers_share_it(cfg, tmp_path)
    cfg.DISTILL.TEACHER.CACHE_GB = 0.0
    with pytest.raises(ValueError, match=r"CACHE_GB is 0.0: it must be above 0"):
        DistillationTrainer(cfg)


def test_16_bits_give_the_same_values_read_or_computed(tmp_path):
    """Half the bytes; rounded by no more than half an ulp of float16."""
    _, model = pair("GFL", ("LD", "CWD"))
    teacher, batch = model.teachers[0], make_batch()
    need = frozenset({"features", "logits", "deltas", "anchors"})
    exact = teacher(batch, model.divisor, "BGR", need)
    sizes, outputs = [], []
    for name, half in (("full", False), ("half", True)):
        store = TensorStore(tmp_path / name, 10**9)
        teacher.cache = OutputCache(store, teacher.adapter, "test", half=half)
        outputs = [teacher(batch, model.divisor, "BGR", need) for _ in range(2)]
        sizes.append(store.size)
    assert sizes[1] < 0.65 * sizes[0]  # anchors and masks of cells stay
    for field in ("features", "logits", "deltas"):
        for stride, x in getattr(exact, field).items():
            computed, read = (getattr(output, field)[stride] for output in outputs)
            assert_close(read, computed, rtol=0, atol=0)
            assert computed.dtype == torch.float32 and not torch.equal(computed, x)
            assert_close(computed, x, rtol=2**-11 + 1e-4, atol=1e-6)


def test_16_bits_of_large_numbers_are_finite():
    x = {"features/8": torch.tensor([[[1e5, 2.0]]])}
    assert _rounded(x["features/8"]).dtype == torch.bfloat16
    assert _rounded(torch.ones(3)).dtype == torch.float16
    assert _rounded(torch.ones(3, dtype=torch.bool)).dtype == torch.bool


def test_a_slow_disk_switches_the_cache_off(tmp_path, caplog):
    """Losses are the same before and behind, and nothing is read or written any more."""
    _, model = pair("RetinaNet", ("PKD", "BCKD"))
    batch = make_batch()
    cached(model, tmp_path)
    cache = model.teachers[0].cache
    cache.clock = CacheClock(count=2)
    expected = losses_of(model, batch)  # two images computed
    read = cache._store.read

    def slow(key):
        time.sleep(0.5)
        return read(key)

    cache._store.read = slow
    assert_close(losses_of(model, batch), expected, rtol=0, atol=0)
    assert cache.clock.off and "nothing is read or stored any more" in caplog.text
    cache._store.read = cache._store.write = None
    assert_close(losses_of(model, batch), expected, rtol=0, atol=0)


def test_the_clock_has_what_a_device_still_computes(tmp_path, monkeypatch):
    """On a GPU a forward returns at once; the look at its numbers waits for it."""
    _, model = pair("RetinaNet", ("PKD",))
    cached(model, tmp_path)
    monkeypatch.setattr(cache_module, "_is_finite", lambda x: time.sleep(0.3) or True)
    losses_of(model, make_batch())
    clock = model.teachers[0].cache.clock
    assert clock._counts == [2, 0] and clock._seconds[0] > 0.6


def test_a_quick_disk_leaves_it_on():
    clock = CacheClock(count=2)
    for read, seconds in ((False, 1.0), (True, 0.5)) * 5:
        clock.add(read, seconds)
    assert not clock.off


def simulated(estimate, seed=0):
    """Hits and versions per image of images that are drawn in epochs, by chance."""
    rng, known, hits, draws = random.Random(seed), set(), 0, 0
    for _ in range(round(estimate.draws)):
        for image in range(estimate.images):
            key = image, rng.randrange(int(estimate.versions))
            hits, draws = hits + (key in known), draws + 1
            known.add(key)
    return hits / draws, len(known) / estimate.images


@pytest.mark.parametrize(("versions", "draws"), [(1, 1), (1, 8), (2, 3), (6, 12), (64, 5)])
def test_the_estimate_is_what_happens(versions, draws):
    estimate = CacheEstimate(1e6, 300, versions, draws)
    hits, stored = simulated(estimate)
    assert estimate.hits == pytest.approx(hits, abs=0.02)
    assert estimate.stored == pytest.approx(stored, rel=0.03)
    assert estimate.size == pytest.approx(3e8 * estimate.stored)


def test_the_estimate_of_a_config(tmp_path, squares, caplog):
    cfg = get_d2kd_cfg()
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.SOLVER.MAX_ITER, cfg.SOLVER.IMS_PER_BATCH = (64, 96), 60, 4
    assert estimate_cache(cfg, 24, 5.0) == CacheEstimate(5.0, 24, 4, 10.0)
    cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING, cfg.INPUT.RANDOM_FLIP = "range", "none"
    assert estimate_cache(cfg, 24, 5.0).versions == 33
    cfg.INPUT.CROP.ENABLED = True
    estimate = estimate_cache(cfg, 24, 5.0)
    assert estimate.hits == 0 and estimate.size == 5.0 * 240
    assert "at most 0% of its images" in estimate.text(cfg)
    cfg.DISTILL.TEACHER.CACHE_GB, cfg.DISTILL.TEACHER.CONFIG_FILES = 6e-7, ("a", "b")
    text = CacheEstimate(5.0, 24, 4, 10.0).text(cfg)  # 453 bytes each, of which 62% could be found
    assert "CACHE_GB 6e-07, shared by 2 teachers" in text and "at most 41% of its" in text
