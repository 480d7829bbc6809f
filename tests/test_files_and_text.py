"""Yaml and json of users within bounds, and text that is fit for where it goes."""

import os
import resource
import time

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from d2kd.errors import ConfigError, MissingFileError, message
from d2kd.file_io import append, parse_yaml, read_head, read_json, read_text, read_yaml
from d2kd.text import file_name, for_plot, plain, shell

LAUGHS = "a0: &a0 [x, x]\n" + "".join(
    f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}, *a{i - 1}]\n" for i in range(1, 30)
)
MERGES = "a0: &a0 {k: 1}\n" + "".join(
    f"a{i}: &a{i}\n  <<: [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40)
)


@pytest.mark.parametrize(
    "text",
    [LAUGHS, MERGES, "a: &a [*a]", "[" * 5000, "{a: " * 5000, "a: !!python/name:os.system",
     "a: 1\na: 2", "x" * 2_000_000, "a: " + "y" * 20_000, "a: [", "a: 2001-99-99"],
)  # fmt: skip
def test_yaml_that_would_not_end_is_refused_at_once(text, tmp_path):
    start = time.process_time()
    with pytest.raises(yaml.YAMLError):
        parse_yaml(text)
    assert time.process_time() - start < 5
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"a\.yaml"):
        read_yaml(tmp_path / "a.yaml")


def test_ordinary_yaml_is_read(tmp_path):
    text = "\ufeffnames: [a, b]\nbase: &b {x: 1}\nother: {<<: *b, y: 2}\n"
    (tmp_path / "a.yaml").write_text(text, encoding="utf-8")
    expected = {"names": ["a", "b"], "base": {"x": 1}, "other": {"x": 1, "y": 2}}
    assert read_yaml(tmp_path / "a.yaml") == expected
    assert parse_yaml("") is None
    for missing in (tmp_path / "b.yaml", tmp_path):
        with pytest.raises(MissingFileError, match=missing.name):
            read_yaml(missing)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_json_of_any_unicode_encoding(tmp_path, encoding):
    (tmp_path / "a.json").write_bytes('{"é": [NaN]}'.encode(encoding))
    assert list(read_json(tmp_path / "a.json")) == ["é"]


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe\x00", b"[" * 100_000, b"9" * 10_000])
def test_json_that_is_none_is_one_line(tmp_path, data):
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(ConfigError, match=r"a\.json") as caught:
        read_json(tmp_path / "a.json")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500 + len(str(tmp_path))


@given(st.text(st.characters(exclude_categories=())))
def test_any_text_is_fit_for_its_place(text):
    shown = plain(text)
    shown.encode("utf-8")
    assert shown.isprintable() or not set(shown) & set("\x1b\n\r\u202e\x00")
    assert file_name(text) not in ("", ".", "..") and "/" not in file_name(text)
    file_name(text).encode("utf-8")


@pytest.mark.parametrize("text", ["$x$", "$", "a$b$c$", r"\$", r"\frac", "$\\frac{", "plain"])
def test_labels_of_plots_are_shown_as_they_are(text):
    figure = Figure(figsize=(1, 1))
    label = figure.text(0, 0, for_plot(text))
    figure.canvas.draw()
    assert label._preprocess_math(label.get_text()) == (text, False)


def test_text_is_read_within_bounds(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfa\r\nb\rc\xff\n")
    assert read_text(path, 12, "a list") == "a\nb\nc\ufffd\n"
    with pytest.raises(ConfigError, match=r"a.txt is larger than .* MB, too large for a list"):
        read_text(path, 10, "a list")
    with pytest.raises(MissingFileError, match="b.txt cannot be read: No such file"):
        read_text(tmp_path / "b.txt", 10, "a list")


def test_pipes_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert read_head(tmp_path / "pipe", 10) == read_head(tmp_path / "none", 10) == b""
    for read in (read_yaml, read_json):
        with pytest.raises(MissingFileError, match="pipe cannot be read: it is no file"):
            read(tmp_path / "pipe")


def test_a_tag_in_any_yaml(tmp_path):
    (tmp_path / "data.yaml").write_text("names: !!python/tuple [cat]")
    with pytest.raises(ConfigError, match="python/tuple.*the plain value instead, such as 0.5"):
        read_yaml(tmp_path / "data.yaml")


def test_what_the_system_says_comes_with_what_to_do():
    with pytest.raises(OSError) as full, open("/dev/full", "wb", buffering=0) as file:
        file.write(b"x")
    assert message(full.value) == "No space left on device (free space there, or write elsewhere)."
    with pytest.raises(OSError) as folder:
        open("/")
    assert message(folder.value) == "/: Is a directory (a file is needed, name one)."
    assert message(OSError("the words of a library")) == "the words of a library"


def test_a_row_is_appended_whole_or_not_at_all(tmp_path):
    path = tmp_path / "rows"
    append(path, "first\n")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))  # as a full disk, it takes a part
    try:
        with pytest.raises(OSError, match="File too large"):
            append(path, "second\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    append(path, "third\n")
    assert path.read_text() == "first\nthird\n"


def test_a_command_can_be_typed_as_it_is_shown():
    words = ["d2kd", "predict", "mein Lauf", "it's", "a$b", 5]
    assert shell(*words) == """d2kd predict "mein Lauf" "it's" 'a$b' 5"""
