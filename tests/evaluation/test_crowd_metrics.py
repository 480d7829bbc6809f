"""CrowdHuman's numbers from boxes: a toy case by hand, an independent reference, invariances."""

import math
from itertools import permutations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from d2kd.evaluation.crowd_metrics import (
    FPPI_POINTS,
    JI_THRESHOLDS,
    average_precision,
    clip,
    image_record,
    jaccard_index,
)


def xyxy(*boxes):
    boxes = np.array(boxes, np.float64).reshape(-1, 4)
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)


def toy():
    """Two images of 100 x 100 px; boxes are x, y, width, height."""
    a = image_record(
        xyxy((0, 0, 20, 40), (35, 0, 20, 40), (65, 5, 10, 20), (0, 60, 20, 20), (2, 0, 20, 40)),
        np.array([0.9, 0.8, 0.7, 0.6, 0.5]),
        xyxy((0, 0, 20, 40), (30, 0, 20, 40)), xyxy((60, 0, 40, 40)), (100, 100),
    )  # fmt: skip
    b = image_record(
        xyxy((10, 10, 20, 20)), np.array([0.55]),
        xyxy((10, 10, 20, 20), (60, 60, 20, 20)), xyxy(), (100, 100),
    )  # fmt: skip
    return a, b


def test_toy_case():
    """Scores .9 T .8 T .6 F .55 T .5 F, the .7 is dropped; MR = exp((7 ln .5 + 2 ln .25) / 9)."""
    a, b = toy()
    assert_allclose(a.scores, [0.9, 0.8, 0.6, 0.5])
    assert a.hits.tolist() == [True, True, False, False]
    assert b.scores.tolist() == [0.55] and b.hits.tolist() == [True]
    ap, mr = average_precision([a, b])
    assert_allclose(ap, 0.427083, atol=1e-6)
    assert_allclose(mr, 2 ** (-11 / 9), atol=1e-9)
    assert_allclose(mr, 0.428622, atol=1e-6)
    expected = [0.5] * 5 + [7 / 12, 0.5, 0.5, 0.25, 0]
    assert_allclose(jaccard_index([a, b]), expected, atol=1e-6)


def prepared(boxes, size, digits=None):
    """Boxes rounded as x, y, width and height, if at all, and clipped, one by one."""
    result = []
    for x0, y0, x1, y1 in np.asarray(boxes, np.float64).reshape(-1, 4).tolist():
        if digits is not None:
            width, height = round(x1 - x0, digits), round(y1 - y0, digits)
            x0, y0 = round(x0, digits), round(y0, digits)
            x1, y1 = x0 + width, y0 + height
        height, width = size
        result.append((min(max(x0, 0), width - 1), min(max(y0, 0), height - 1),
                       min(max(x1, 0), width), min(max(y1, 0), height)))  # fmt: skip
    return result


def share(a, b, of_first=False):
    """IoU of two boxes, or the share of the first one's area."""
    sides = (min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1]))
    inner = max(sides[0], 0) * max(sides[1], 0)
    areas = [(x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)]
    return inner / ((areas[0] if of_first else sum(areas) - inner) + 1e-6)


def reference(images):
    """AP and MR by the definitions, one detection after another."""
    pooled, total = [], 0
    for boxes, scores, objects, ignore, size in images:
        boxes = prepared(boxes, size, 1)
        objects, ignore = prepared(objects, size), prepared(ignore, size)
        scores = [float(x) for x in scores]
        free, total = set(range(len(objects))), total + len(objects)
        for d in sorted(range(len(boxes)), key=lambda i: -round(scores[i], 5)):
            best, best_iou = None, 0.5
            for g in sorted(free):
                iou = share(boxes[d], objects[g])
                if iou > best_iou:
                    best, best_iou = g, iou
            inside = any(share(boxes[d], x, of_first=True) > 0.5 for x in ignore)
            if best is not None:
                free.remove(best)
            elif inside:
                continue
            pooled.append((round(scores[d], 5), best is not None))
    pooled.sort(key=lambda x: -x[0])
    tp = fp = 0
    points, ap = [], 0.0
    for _, hit in pooled:
        tp, fp = tp + hit, fp + (not hit)
        points.append((tp / total, tp / (tp + fp), fp / len(images)))
    for (r0, p0, _), (r1, p1, _) in zip(points, points[1:], strict=False):
        ap += (r1 - r0) * (p0 + p1) / 2
    misses = []
    for x in FPPI_POINTS:
        recall = next((r for r, _, f in points if f >= x), points[-1][0])
        misses.append(1 - recall)
    return ap, 0.0 if 0 in misses else math.exp(sum(map(math.log, misses)) / 9)


def random_images(seed, count=12, digits=9):
    """Boxes that reach outside their image; two digits give equal scores."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        objects, ignore = rng.integers(0, 6), rng.integers(0, 3)
        corner = rng.uniform(-5, 80, (objects + ignore, 2))
        truth = np.hstack([corner, corner + rng.uniform(10, 50, corner.shape)])
        near = truth[rng.integers(0, len(truth), 15)] if len(truth) else np.zeros((0, 4))
        near = near + rng.normal(0, 4, near.shape)
        corner = rng.uniform(0, 80, (10, 2))
        boxes = np.vstack([near, np.hstack([corner, corner + rng.uniform(5, 40, corner.shape)])])
        scores = rng.random(len(boxes)).round(digits)
        images.append((boxes, scores, truth[:objects], truth[objects:], (100, 90)))
    return images


def brute_jaccard(images):
    """Every matching of a small image is tried."""
    sums = np.zeros(len(JI_THRESHOLDS))
    counted = np.zeros(len(JI_THRESHOLDS))
    for boxes, scores, objects, ignore, size in images:
        boxes, objects, ignore = (prepared(x, size, 1) for x in (boxes, objects, ignore))
        for t, threshold in enumerate(JI_THRESHOLDS):
            d = [box for box, score in zip(boxes, scores, strict=True) if score > threshold]
            iou = np.array([[share(x, y) for y in objects] for x in d])
            iou = iou.reshape(len(d), len(objects))
            iou[iou <= 0.5] = 0
            best, pairs = -1.0, []
            small, large = sorted((len(d), len(objects)))
            for order in permutations(range(large), small):
                ij = [(x, y) if len(d) <= len(objects) else (y, x) for x, y in enumerate(order)]
                weight = sum(iou[i, j] for i, j in ij)
                if weight > best + 1e-12:
                    best, pairs = weight, [(i, j) for i, j in ij if iou[i, j] > 0]
            left = [
                {i for i, x in enumerate(xs) if any(share(x, y, True) > 0.5 for y in ignore)}
                - {p[k] for p in pairs}
                for k, xs in enumerate((d, objects))
            ]
            n, m, k = len(d) - len(left[0]), len(objects) - len(left[1]), len(pairs)
            sums[t] += k / (m + n - k + 1e-6)
            counted[t] += n > 0 or m > 0
    return sums / np.maximum(counted, 1)


@pytest.mark.parametrize("digits", [9, 1])
@pytest.mark.parametrize("seed", range(4))
def test_equals_the_definitions_on_random_images(seed, digits):
    images = random_images(seed, digits=digits)
    found = average_precision([image_record(*x) for x in images])
    assert_allclose(found, reference(images), atol=1e-9)
    assert 0.05 < found[0] < 0.9


@pytest.mark.parametrize("seed", range(3))
def test_jaccard_equals_trying_every_matching(seed):
    images = [(b[:5], s[:5], o[:4], i, size) for b, s, o, i, size in random_images(seed, 8)]
    found = jaccard_index([image_record(*x) for x in images])
    assert_allclose(found, brute_jaccard(images), atol=1e-9)
    assert max(found) > 0.1


def test_detections_in_ignore_regions_and_the_order_of_images_do_not_matter():
    images = random_images(7)
    before = [image_record(*x) for x in images]
    changed = []
    for boxes, scores, objects, ignore, size in images:
        ignore = np.vstack([ignore, [[200, 200, 260, 260]]])
        size = 300, 300
        changed.append((boxes, scores, objects, ignore, size))
    plain = [image_record(*x) for x in changed]
    more = [
        image_record(np.vstack([b, [[210, 210, 240, 250]]]), np.append(s, 0.99), *rest)
        for b, s, *rest in changed
    ]
    assert_allclose(average_precision(more), average_precision(plain))
    assert_allclose(jaccard_index(more), jaccard_index(plain))
    assert_allclose(average_precision(before[::-1]), average_precision(before))
    assert_allclose(jaccard_index(before[::-1]), jaccard_index(before))


def test_images_without_detections_objects_or_anything():
    none, one = np.zeros((0, 4)), xyxy((10, 10, 20, 20))
    missed = image_record(none, np.zeros(0), one, none, (50, 50))
    false = image_record(one, np.array([0.5]), none, none, (50, 50))
    ignored = image_record(one, np.array([0.5]), none, one, (50, 50))
    assert average_precision([missed]) == (0.0, 1.0)
    assert not len(ignored.scores) and not ignored.counted.any()
    assert false.counted.tolist() == [True] * 5 + [False] * 5
    assert np.isnan(average_precision([false])).all()
    perfect = image_record(one, np.array([0.95]), one, none, (50, 50))
    assert average_precision([perfect, ignored])[1] == 0.0
    assert_allclose(jaccard_index([perfect]), [1.0] * 10, atol=1e-5)


def one_image(boxes, scores, objects, ignore=()):
    return image_record(xyxy(*boxes), np.array(scores), xyxy(*objects), xyxy(*ignore), (100, 100))


def test_each_object_is_found_once_and_regions_hide_any_number():
    """The second goes to the object next best, the third finds none left, two are hidden."""
    objects = [(0, 0, 20, 20), (0, 4, 20, 20), (60, 60, 20, 20)]
    boxes = [objects[0], objects[0], objects[0], objects[2], objects[2], objects[2]]
    found = one_image(boxes, [0.9, 0.8, 0.7, 0.6, 0.5, 0.4], objects, [(50, 50, 50, 50)])
    assert_allclose(found.scores, [0.9, 0.8, 0.7, 0.6])  # a match in a region counts
    assert found.hits.tolist() == [True, True, False, True]


def test_scores_have_five_digits_and_equal_ones_keep_their_order():
    found = one_image([(0, 0, 9, 9), (50, 50, 9, 9)], [0.900001, 0.900004], [(0, 0, 9, 9)])
    assert found.scores.tolist() == [0.9, 0.9] and found.hits.tolist() == [True, False]


def test_what_is_rounded():
    """Detections by corner and size; objects for JI alone, where 10.16 px become 10.2."""
    found = one_image([(0, 0, 5.1, 10)], [0.95], [(0, 0, 10.16, 10)])
    assert found.hits.tolist() == [True] and found.counted.all()
    assert_allclose(found.ratios, 0)
    shorter = one_image([(0.04, 0, 5.14, 10)], [0.95], [(0, 0, 10.3, 10)])  # not 0 to 5.2
    assert shorter.hits.tolist() == [False]


def test_boxes_outside_are_cut_to_the_image():
    boxes = xyxy((-10, -20, 30, 40), (90, 80, 40, 50), (150, 160, 20, 20), (-30, -30, 10, 10))
    expected = [[0, 0, 20, 20], [90, 80, 120, 100], [119, 99, 120, 100], [0, 0, 0, 0]]
    assert_allclose(clip(boxes, (100, 120)), expected)
    found = one_image([(80, 80, 20, 20)], [0.95], [(80, 80, 60, 60)])
    assert found.hits.tolist() == [True]
    assert_allclose(found.ratios, 1, atol=1e-5)


def test_a_curve_that_ends_early_counts_its_last_point():
    """Two of four are found and nothing is wrong: the trapezoid is 1/4 wide, half is missed."""
    objects = [(x, 0, 9, 9) for x in (0, 20, 40, 60)]
    ap, mr = average_precision([one_image(objects[:2], [0.9, 0.8], objects)])
    assert_allclose([ap, mr], [0.25, 0.5])


def test_points_of_the_miss_rate():
    """Nineteen false positives in 601 images are 0.031614 an image, past 0.0316 by the tool."""
    empty = one_image([], [], [])
    wrong = one_image([(80, 80, 9, 9)] * 19, [0.9] * 19, [])
    later = one_image([(0, 0, 9, 9)], [0.8], [(0, 0, 9, 9), (50, 50, 9, 9)])
    _, mr = average_precision([wrong, later] + [empty] * 599)
    assert_allclose(mr, 0.5 ** (6 / 9))  # nothing is found at the first three points


def test_jaccard_takes_the_matching_of_largest_weight():
    """The detection belongs to the second object, which lies in a region; the first is missed."""
    objects, region = [(0, 6, 20, 20), (0, 0, 20, 20)], (0, -20, 20, 35)
    found = one_image([(0, 0, 20, 20)], [0.95], objects, [region])
    assert_allclose(found.ratios, 0.5, atol=1e-6)
