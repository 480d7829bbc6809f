"""Links, files, and the pages of the methods."""

import re
import runpy
import subprocess
import sys

import pytest
import setuptools

from d2kd.config.defaults import get_d2kd_cfg
from d2kd.config.loading import merge_config_file
from d2kd.heads import DISTILLATION_HEAD_REGISTRY, head_defaults
from tests.conftest import ROOT
from tests.docs.pages import anchors, fences, pages, prose, section, table
from tests.docs.test_readme import DETECTORS

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
OWN = {n: h for n, h in DISTILLATION_HEAD_REGISTRY if h.__module__.startswith("d2kd.")}
METHODS = {name: f"docs/reference/methods/{name.lower()}.md" for name in OWN}
INDEX = "docs/reference/methods/index.md"
MEASURED = re.compile(r"README.md|docs/results/\w+.md|benchmarks/\w+.md")
INCLUDES = re.compile(r"```\{include\} (\S+)\n")
NUMBER = re.compile(r"\d+\.\d+")
FILE = re.compile(r"\b(?:configs|docs|datasets|benchmarks|tools|studies|tests|d2kd)/[\w./-]+\.\w+")
YOURS = (
    "datasets/cells",
    "datasets/digits",
    "configs/mine",
    "tools/train_net",
    "tools/lazyconfig_train_net",
)


@pytest.mark.parametrize("name", pages())
def test_relative_links_and_their_anchors_exist(name):
    for target in LINK.findall(prose(pages()[name])):
        if "://" in target or target.startswith("mailto:"):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / name).parent / path if path else ROOT / name
        assert file.exists(), target
        assert not anchor or anchor in anchors(file.read_text()), target


@pytest.mark.parametrize("name", pages())
def test_files_that_a_page_names_exist(name):
    for file in FILE.findall(pages()[name]):
        assert file.startswith(YOURS) or (ROOT / file).exists(), file


@pytest.mark.parametrize("name", pages())
def test_extras_that_a_page_names_exist(name, monkeypatch):
    found = {}
    monkeypatch.setattr(setuptools, "setup", lambda **kwargs: found.update(kwargs))
    monkeypatch.chdir(ROOT)
    runpy.run_path(str(ROOT / "setup.py"))
    named = set(re.findall(r"\.\[([a-z]+)\]", pages()[name]))
    assert named <= set(found["extras_require"])


def test_every_method_has_a_page_and_every_page_a_method():
    index = pages()[INDEX]
    found = {str(p.relative_to(ROOT)) for p in (ROOT / INDEX).parent.glob("*.md")}
    assert found - {INDEX} == set(METHODS.values())
    for name, path in METHODS.items():
        assert f"[{name}]({path.rpartition('/')[2]})" in index
        assert pages()[path].startswith(f"# {name}\n")


@pytest.mark.parametrize("name", METHODS)
def test_the_keys_of_a_method_are_those_of_the_code(name):
    head = OWN[name]
    options = {"WEIGHT": head.default_weight, "TEACHER": 0}
    options |= {key.upper(): value for key, value in head_defaults(head).items()}
    expected = {f"`DISTILL.{name}.{key}`": f"`{value!r}`" for key, value in options.items()}
    rows = list(table(pages()[METHODS[name]], "| key | default | meaning |"))
    assert {key: default for key, default, _ in rows} == expected
    assert all(meaning for _, _, meaning in rows)


@pytest.mark.parametrize("name", METHODS)
def test_the_detectors_of_a_method_are_those_of_the_whole_table(name):
    """The whole table is what test_readme.py builds."""
    row = rf"^\| {name} \|(?: (?:yes|-) \|){{{len(DETECTORS)}}}$"
    whole = re.findall(row, pages()[INDEX], re.MULTILINE)
    assert len(whole) == 1 and whole == re.findall(row, pages()[METHODS[name]], re.MULTILINE)


@pytest.mark.parametrize("name", METHODS)
def test_measured_numbers_stand_where_they_were_measured(name):
    sources = [x for x in pages() if MEASURED.fullmatch(x)]
    known = {number for x in sources for number in NUMBER.findall(pages()[x])}
    text = pages()[METHODS[name]]
    assert set(NUMBER.findall(section(text, "Measured here"))) <= known
    for title in ("Formula", "Published", "What differs from the paper", "Recipes"):
        assert section(text, title).strip(), title


@pytest.mark.parametrize("name", METHODS)
def test_the_recipes_of_a_method_use_it(name):
    found = re.findall(
        r"\(\.\./\.\./\.\./(configs/\S+)\)", section(pages()[METHODS[name]], "Recipes")
    )
    assert found
    for path in found:
        cfg = get_d2kd_cfg()
        merge_config_file(cfg, str(ROOT / path), "CONFIG")
        assert name in cfg.DISTILL.HEADS, path


def test_a_method_and_a_detector_of_ones_own_are_the_files_that_are_tested():
    method = fences(pages()["docs/tutorials/own_method.md"], "python")
    assert (ROOT / "docs" / "my_method.py").read_text() in method
    detector = fences(pages()["docs/guide/own_adapter.md"], "python")
    assert (ROOT / "docs" / "my_detector.py").read_text().endswith("\n\n" + detector[0])


@pytest.mark.parametrize("name", [x for x in pages() if x != "README.md"])
def test_a_page_says_at_its_top_for_whom_it_is(name):
    included = INCLUDES.match(pages()[name])
    if included:  # the page that it shows says so
        shown = ((ROOT / name).parent / included[1]).resolve().relative_to(ROOT)
        assert str(shown) in pages()
        return
    title, top = pages()[name].split("\n\n")[:2]
    assert re.fullmatch(r"# .+", title) and top.startswith("For "), top


def test_every_page_is_in_a_table_of_contents():
    listed = set()
    for name, text in pages().items():
        for block in re.findall(r"```\{toctree\}\n(.*?)```", text, re.DOTALL):
            entries = [x for x in block.split() if not x.startswith(":")]
            found = [((ROOT / name).parent / f"{entry}.md").resolve() for entry in entries]
            listed |= {str(path.relative_to(ROOT)) for path in found if path.is_file()}
    assert listed | {"docs/index.md"} == {x for x in pages() if x.startswith("docs/")}


def test_the_messages_of_the_troubleshooting_page_are_those_of_the_code():
    code = "".join(p.read_text() for p in (ROOT / "d2kd").rglob("*.py"))
    rows = list(table(pages()["docs/guide/troubleshooting.md"], "| message | what to type |"))
    assert rows
    for message, _ in rows:
        assert " ".join(message.strip("`").split()[:3]) in code, message


def test_sphinx_builds_the_pages_without_a_warning(tmp_path):
    for package in ("sphinx", "myst_parser", "furo", "latex2mathml"):
        pytest.importorskip(package, reason="pip install -r requirements/docs.txt")
    command = [sys.executable, "-W", "ignore", "-m", "sphinx", "-W", "--keep-going", "-q"]
    result = subprocess.run(
        [*command, "-d", tmp_path / "cache", ROOT / "docs", tmp_path / "html"],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    page = (tmp_path / "html" / "reference" / "methods" / "pkd.html").read_text()
    assert "<mfrac>" in page and "DISTILL.PKD.WEIGHT" in page
    adapters = tmp_path / "html" / "reference" / "api" / "adapters.html"
    assert "DetectorOutput" in adapters.read_text()
