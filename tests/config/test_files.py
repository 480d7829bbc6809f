"""Config files that users download: read as data, whatever their `_BASE_` files and values are."""

import os
import time

import pytest

from d2kd.config.defaults import get_d2kd_cfg
from d2kd.config.files import read_config
from d2kd.config.loading import merge_config_file, merge_options
from d2kd.config.model_zoo import zoo_folder
from d2kd.errors import ConfigError, MissingFileError

EVAL = "!!python/object/apply:os.system ['touch RAN']"
LAUGHS = "a0: &a0 [x, x]\n" + "".join(
    f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}, *a{i - 1}]\n" for i in range(1, 30)
)
REFUSED = {
    "a circle": ("_BASE_: a.yaml", "leads back to itself"),
    "a circle of two": ("_BASE_: to_a.yaml", "leads back to itself"),
    "an address": ("_BASE_: https://example.org/a.yaml", "configs are not downloaded"),
    "another address": ("_BASE_: [detectron2://a.yaml]", "configs are not downloaded"),
    "an endless device": ("_BASE_: /dev/zero", "is no file"),
    "a pipe": ("_BASE_: pipe", "is no file"),
    "no such base": ("_BASE_: b.yaml", "b.yaml is no file"),
    "a base that is no path": ("_BASE_: {a: 1}", "must be a path"),
    "bases without end": (f"_BASE_: [{'ok.yaml, ' * 21}]", "up to 20 paths"),
    "a long chain": ("_BASE_: chain0.yaml", "more than 20 files"),
    "a tag": (f"A: {EVAL}", "yaml tag that can run code"),
    "a tag in its base": ("_BASE_: tag.yaml", "yaml tag that can run code"),
    "aliases": (LAUGHS, "holds more than 100,000 values"),
    "aliases in its base": ("_BASE_: laughs.yaml", "holds more than 100,000 values"),
    "python code": ("_BASE_: code.py", "not valid yaml|holds no keys"),
    "no keys": ("- 1", "holds no keys"),
    "a key that is a number": ("SOLVER: {1: 2}", "SOLVER has the key 1"),
    "a number that cannot be printed": (f"SOLVER: {{MAX_ITER: 0x{'f' * 9000}}}", "too large"),
    "a section as a value": ("_BASE_: value.yaml\nSOLVER: {MAX_ITER: 1}", "SOLVER is a section"),
    "a literal without end": (f"OUTPUT_DIR: {'-' * 9000}1", "nested too deep"),
    "a date": ("OUTPUT_DIR: 2020-01-01", "not a valid type"),
    "an old version": ("VERSION: 77", "77"),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = {"to_a": "_BASE_: a.yaml", "tag": f"A: {EVAL}", "laughs": LAUGHS, "value": "SOLVER: 1",
             "ok": "SEED: 1"}  # fmt: skip
    files.update({f"chain{i}": f"_BASE_: chain{i + 1}.yaml" for i in range(25)}, chain25="SEED: 1")
    for name, text in files.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    (tmp_path / "code.py").write_text("import os\nos.system('touch RAN')\n")
    os.mkfifo(tmp_path / "pipe")
    return tmp_path


@pytest.mark.parametrize("name", REFUSED)
def test_hostile_files_are_one_line_at_once(folder, name):
    text, reason = REFUSED[name]
    (folder / "a.yaml").write_text(text)
    start = time.process_time()
    with pytest.raises(ConfigError, match=reason) as caught:
        merge_config_file(get_d2kd_cfg(), "a.yaml", "--config-file")
    assert time.process_time() - start < 5 and not (folder / "RAN").exists()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 800
    assert str(caught.value).startswith("--config-file: ")


def test_a_file_that_many_bases_share_is_read_once(folder):
    """Each level names the next one twenty times: 20**15 readings otherwise."""
    for i in range(15):
        (folder / f"wide{i}.yaml").write_text(f"_BASE_: [{f'wide{i + 1}.yaml, ' * 20}]\n")
    (folder / "wide15.yaml").write_text("SEED: 7")
    assert read_config("wide0.yaml") == {"SEED": 7}


def test_bases_are_merged_as_detectron2_merges_them(folder):
    (folder / "one.yaml").write_text("SOLVER: {MAX_ITER: 1, BASE_LR: 0.5}\nSEED: 1")
    (folder / "two.yaml").write_text("SOLVER: {MAX_ITER: 2}")
    (folder / "a.yaml").write_text("_BASE_: [one.yaml, two.yaml]\nSOLVER: {GAMMA: 0.2}")
    ours, stock = get_d2kd_cfg(), get_d2kd_cfg()
    merge_config_file(ours, "a.yaml", "--config-file")
    stock.merge_from_file("a.yaml", allow_unsafe=False)
    assert ours == stock and ours.SOLVER.MAX_ITER == 2 and ours.SOLVER.BASE_LR == 0.5


@pytest.mark.parametrize("path", sorted(zoo_folder().glob("configs/*/*R_50_FPN_1x.yaml")), ids=str)
def test_the_zoo_is_read_as_before(path):
    ours, stock = get_d2kd_cfg(), get_d2kd_cfg()
    merge_config_file(ours, str(path), "--config-file")
    stock.merge_from_file(str(path))
    assert ours == stock


def test_configs_are_not_downloaded():
    for address in ("https://example.org/a.yaml", "detectron2://a.yaml", "file:///etc/passwd"):
        with pytest.raises(ConfigError, match="KEY: .*configs are not downloaded"):
            merge_config_file(get_d2kd_cfg(), address, "KEY")
    with pytest.raises(MissingFileError, match="KEY: 'a\\\\x00b'"):
        merge_config_file(get_d2kd_cfg(), "a\x00b", "KEY")


@pytest.mark.parametrize("value", ["-" * 9000 + "1", "(" * 150 + "not " * 9000 + "1", "1" * 9000])
def test_values_of_options_without_end(value):
    with pytest.raises(ConfigError, match="SOLVER.MAX_ITER: ") as caught:
        merge_options(get_d2kd_cfg(), ["SOLVER.MAX_ITER", value])
    assert len(str(caught.value)) < 800
