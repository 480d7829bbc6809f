"""metrics.json: which values get a row."""

import json

from detectron2.utils.events import EventStorage

from d2kd.engine.metrics_file import MetricsFile


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_value_that_is_put_after_its_iterations_row_has_a_row_of_its_own(tmp_path):
    path = tmp_path / "metrics.json"
    metrics = MetricsFile(path)
    with EventStorage(7) as storage:
        storage.put_scalar("total_loss", 2.0)
        metrics.write()
        storage.put_scalar("bbox/AP", 30.0, smoothing_hint=False)
        metrics.write()
        metrics.write()
    assert rows(path) == [{"iteration": 7, "total_loss": 2.0}, {"iteration": 7, "bbox/AP": 30.0}]
    assert metrics.position["written"] == 7


def test_behind_a_position_nothing_is_written_twice(tmp_path):
    path = tmp_path / "metrics.json"
    metrics = MetricsFile(path)
    with EventStorage(0) as storage:
        for iteration in range(3):
            storage.iter = iteration
            storage.put_scalar("total_loss", float(iteration))
            metrics.write()
            if iteration == 1:
                position = metrics.position
        metrics.go_back(position)
        storage.iter = 1
        storage.put_scalar("total_loss", 9.0)
        metrics.write()
    assert [row["iteration"] for row in rows(path)] == [0, 1]


def test_a_late_value_is_written_after_a_resumption_too(tmp_path):
    def step(metrics, storage, iteration, late=None):
        storage.iter = iteration
        storage.put_scalar("total_loss", 1.0)
        metrics.write()
        if late is not None:
            storage.put_scalar("bbox/AP", late, smoothing_hint=False)

    path = tmp_path / "metrics.json"
    metrics = MetricsFile(path)
    with EventStorage(0) as storage:
        step(metrics, storage, 0, late=5.0)
        position = metrics.position
        step(metrics, storage, 1)
        whole = rows(path)
        resumed = MetricsFile(path)
        resumed.go_back(position)
        step(resumed, storage, 1)
    assert rows(path) == whole and {"iteration": 0, "bbox/AP": 5.0} in whole
