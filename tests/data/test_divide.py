"""Images are divided so that both parts have all classes."""

import random

import pytest

from d2kd.data.divide import hold_back


def singles(classes):
    return [[i] for i in range(len(classes))]


@pytest.mark.parametrize("seed", range(5))
def test_every_class_has_its_share(seed):
    rng = random.Random(seed)
    shares = {"a": 0.9, "b": 0.3, "c": 0.1, "d": 0.02}
    classes = [frozenset(x for x, p in shares.items() if rng.random() < p) for _ in range(500)]
    held = hold_back(classes, singles(classes), 0.2, seed)
    assert len(held) == pytest.approx(100, abs=8)
    for name in shares:
        count = sum(name in x for x in classes)
        assert sum(name in classes[i] for i in held) == pytest.approx(0.2 * count, abs=8)


@pytest.mark.parametrize("seed", range(20))
def test_a_class_of_two_images_is_in_both(seed):
    classes = [frozenset("a")] * 20 + [frozenset("ab")] * 2 + [frozenset("c")] * 2
    held = hold_back(classes, singles(classes), 0.2, seed)
    for name in "abc":
        own = {i for i, x in enumerate(classes) if name in x}
        assert own & held and own - held


def test_a_class_of_one_image_or_group_is_trained_on():
    classes = [frozenset("a")] * 8 + [frozenset("b")] + [frozenset("c")] * 3
    groups = [*singles(classes)[:9], [9, 10, 11]]
    for seed in range(10):
        held = hold_back(classes, groups, 0.3, seed)
        assert 0 < len(held) < 4 and not held & {8, 9, 10, 11}


def test_the_seed_decides():
    classes = [frozenset("a")] * 50
    found = [hold_back(classes, singles(classes), 0.2, seed) for seed in (1, 1, 2)]
    assert found[0] == found[1] != found[2] and len(found[0]) == 10


def test_images_without_objects_are_shared_too():
    classes = [frozenset("a")] * 10 + [frozenset()] * 10
    held = hold_back(classes, singles(classes), 0.2, 1)
    assert len(held & {*range(10)}) == 2 and len(held) == 4
