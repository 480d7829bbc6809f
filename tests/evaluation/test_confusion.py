"""What is taken for what, and the mistakes in each image, by hand."""

import pytest
from torch.testing import assert_close

from d2kd.evaluation.confusion import confusion_matrix, mistakes
from d2kd.evaluation.error_types import judge
from tests.evaluation.test_error_types import scenes

A, B, C = (10, 10, 40, 40, 0), (100, 100, 40, 40, 1), (10, 100, 40, 40, 2)
NOTHING = (150, 10, 30, 30, 0)
IMAGES = [
    ([A, B, C], [(*A, 0.9), (*A, 0.8), (*A[:4], 1, 0.95), (*B[:4], 2, 0.4), (*B[:4], 0, 0.6),
                 (*NOTHING, 0.7)]),
    ([A], [(*A, 0.2)]),
    ([], []),
    ([B, (*C, "crowd")], [(*B, 0.5), (*C, 0.9)]),
]  # fmt: skip


@pytest.mark.parametrize(("threshold", "expected"), [
    # Rows are objects of a, b, c and nothing; columns detections of a, b, c and missed. The first
    # a is hit, so its repetition and the b on it are on nothing; the b is taken for an a (0.6
    # beats 0.4), so the c on it is on nothing; the crowd takes no part.
    (0.1, [[2, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 1], [2, 1, 1, 0]]),
    # From 0.65 on, both b are missed, and so is the second a.
    (0.65, [[1, 0, 0, 1], [0, 0, 0, 2], [0, 0, 0, 1], [2, 1, 0, 0]]),
    (0.99, [[0, 0, 0, 2], [0, 0, 0, 2], [0, 0, 0, 1], [0, 0, 0, 0]]),
])  # fmt: skip
def test_each_object_is_in_one_cell(threshold, expected):
    assert confusion_matrix(judge(*scenes(IMAGES)), threshold, 3).tolist() == expected


def test_mistakes_of_each_image():
    found, missed, wrong = mistakes(judge(*scenes(IMAGES)), 0.45, 4)
    assert found.tolist() == [1, 0, 0, 1]
    assert missed.tolist() == [2, 1, 0, 0]
    assert wrong.tolist() == [4, 0, 0, 0]


def test_nothing_detected():
    truth, _ = scenes(IMAGES)
    judged = judge(truth, [])
    assert confusion_matrix(judged, 0.5, 3)[:, 3].tolist() == [2, 2, 1, 0]
    assert_close(mistakes(judged, 0.5, 4).missed.tolist(), [3, 1, 0, 1])
