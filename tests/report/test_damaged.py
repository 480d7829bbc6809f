"""Folders of runs that are incomplete or damaged: the page shows what there is, names the rest."""

import json
import os

import pytest
import yaml

from d2kd.errors import ConfigError
from d2kd.report import write_report
from d2kd.report.page import summary
from d2kd.report.runs import RunFolder, different_keys, read_run
from tests.helpers import d2kd
from tests.report.test_page import Page

HOSTILE = "$x$ <b> \ud800\x1b[31m\u202e|\n_" + "y" * 300
ROW = {"total_loss": 1.5, "loss_cls": 0.7, "loss_PKD_feat": 0.8, "time": 0.1, "lr": 0.01}
FILES = {
    "config.yaml": yaml.safe_dump({"SOLVER": {"MAX_ITER": 2}, "SEED": 3,
                                   "MODEL": {"META_ARCHITECTURE": "Distiller"},
                                   "DISTILL": {"HEADS": ["PKD"]}}),
    "metrics.json": "".join(json.dumps({"iteration": i, **ROW}) + "\n" for i in range(2)),
    "results.json": json.dumps({"results": {"bbox": {"AP": 40.0, "APs": None, "AP-cat": 41.0}}}),
    "run.json": json.dumps({"command": ["d2kd", "train"], "seed": 3}),
}  # fmt: skip
DAMAGES = {
    "empty": lambda x: b"",
    "nul bytes": lambda x: bytes(1000),
    "garbage": lambda x: bytes(range(256)) * 10,
    "first byte": lambda x: x[:1],
    "third": lambda x: x[: len(x) // 3],
    "last byte cut": lambda x: x.rstrip()[:-1] + b'"',
    "latin-1": lambda x: x + "\né".encode("latin-1"),
    "list": lambda x: b"[1, 2]",
    "number": lambda x: b"3",
    "text": lambda x: b'"abc"',
    "deep": lambda x: b"[" * 100_000,
    "tag": lambda x: b"!!python/object/apply:os.system ['touch hacked']",
    "aliases": lambda x: b"a: &a [1, 1]\nb: &b [*a, *a]\nc: [*b, *c]",
}


def make_run(folder, **changed):
    folder.mkdir()
    for name, text in {**FILES, **changed}.items():
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def sentences(folder, tmp_path):
    """What the command says about one folder, whose page must be whole."""
    done = d2kd("report", folder, "--output", tmp_path / "r.html")
    assert done.exit_code == 0, done.output
    page = Page((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert page.stack == [] and page.unclosed == []
    assert not set(done.output) & set("\x1b\u202e\ud800")
    return done.output


def missing_of(folder):
    """What the run lacks; its row, its settings and its record can be shown."""
    run = read_run(folder, folder.name)
    summary([run])
    different_keys([run, RunFolder("other", folder)])
    json.dumps(run.record, default=str)
    return run.missing


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named(name, tmp_path):
    for kind, damage in DAMAGES.items():
        folder = make_run(tmp_path / kind, **{name: damage(FILES[name].encode())})
        assert any(name in x and len(x) < 1000 for x in missing_of(folder)), kind
    for kind in ("missing", "directory", "loop"):
        folder = make_run(tmp_path / kind)
        (folder / name).unlink()
        if kind == "directory":
            (folder / name).mkdir()
        if kind == "loop":
            os.symlink(name, folder / name)
        assert any(name in x for x in missing_of(folder)), kind
    assert not os.path.exists("hacked")


def test_the_other_runs_are_shown(tmp_path):
    files = list(FILES)
    folders = [make_run(tmp_path / "whole")]
    folders += [make_run(tmp_path / name, **{name: b"\xff{"}) for name in files]
    said = write_report(folders, tmp_path / "r.html")
    assert {x.partition(":")[0] for x in said if "cannot be" in x or "not valid" in x} == set(files)
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert page.count("40.0</td>") == len(folders) - 1


VALUES = [None, True, -1, 10**400, 1e308, 1e-320, float("nan"), float("-inf"), "text", HOSTILE, [],
          [1, "a", None], {}, {"a": {"b": 1}}]  # fmt: skip


@pytest.mark.parametrize(("name", "path"), [
    ("config.yaml", "SOLVER.MAX_ITER"), ("config.yaml", "SOLVER"), ("config.yaml", "SEED"),
    ("config.yaml", "DISTILL.HEADS"), ("config.yaml", "MODEL.META_ARCHITECTURE"),
    ("results.json", "results"), ("results.json", "results.bbox"),
    ("results.json", "results.bbox.AP"), ("results.json", f"results.bbox.AP-{HOSTILE}"),
    ("run.json", "command"), ("run.json", HOSTILE),
])  # fmt: skip
def test_values_of_any_type(name, path, tmp_path):
    for index, value in enumerate(VALUES):
        data = yaml.safe_load(FILES[name])
        node = data
        for key in path.split(".")[:-1]:
            node = node[key]
        node[path.rpartition(".")[2]] = value
        dump = yaml.safe_dump if name == "config.yaml" else json.dumps
        said = missing_of(make_run(tmp_path / str(index), **{name: dump(data)}))
        if value is None and path in ("SOLVER.MAX_ITER", "DISTILL.HEADS", "command"):
            assert any(x.startswith(f"{name}: {path} is no ") for x in said)


def test_metrics_of_any_type(tmp_path):
    keys = ("iteration", "total_loss", "time", "lr", "loss_" + HOSTILE)
    rows = [json.dumps({"iteration": i, **ROW, k: x}) for k in keys for i, x in enumerate(VALUES)]
    text = "\n".join([*rows, '{"iteration": 30, "total_', *rows])
    said = sentences(make_run(tmp_path / "run", **{"metrics.json": text}), tmp_path)
    assert "lines of metrics.json cannot be read" in said


def test_pictures_that_are_none(tmp_path):
    folder = make_run(tmp_path / "run")
    (folder / "maps").mkdir()
    (folder / "maps" / "image0_0000002.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(50))
    (folder / "maps" / "image1_0000002.png").mkdir()
    (folder / "maps" / f"image{'9' * 5000}.png"[:200]).write_text("")
    (folder / "detections").write_text("no folder")
    said = sentences(folder, tmp_path)
    assert "maps/image0_0000002.png cannot be read" in said
    assert "maps/image1_0000002.png cannot be read" in said


def test_folders_of_any_name(tmp_path):
    names = ["$x$ <b>&", "\x1b[31m\u202e\n", os.fsdecode(b"\xff"), "_" + "a" * 220]
    folders = [make_run(tmp_path / name) for name in names]
    said = write_report([*folders, folders[0]], tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert page.count("40.0</td>") == len(names) and "<b>" not in page
    assert len({x.partition(":")[0] for x in said if "Speed and detections" in x}) == len(names)


def test_what_is_no_run_is_an_error(tmp_path):
    make_run(tmp_path / "run")
    (tmp_path / "file").write_text("")
    for wrong in (tmp_path / "nothing", tmp_path / "file", tmp_path):
        with pytest.raises(ConfigError, match="is not the folder of a run: it has no config.yaml"):
            write_report([tmp_path / "run", wrong], tmp_path / "r.html")
