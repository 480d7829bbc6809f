"""Config keys, values and yaml that the pages name."""

import ast
import re
import runpy
import shlex
from fnmatch import fnmatchcase

import pytest
import yaml
from detectron2.config import CfgNode

from d2kd import DISTILLATION_HEAD_REGISTRY
from d2kd.config.defaults import get_d2kd_cfg
from d2kd.config.keys import flatten
from d2kd.config.loading import merge_options
from tests.conftest import ROOT
from tests.docs.pages import fences, pages, spans, table

SECTIONS = "MODEL|DATASETS|DISTILL|SOLVER|INPUT|DATALOADER|TEST|GLOBAL|QUANTIZE"
KEY = re.compile(rf"(?<![\w./])(?:{SECTIONS})\.[A-Za-z0-9_.<>*]+")
WORD = re.compile(r"^[A-Z][A-Z0-9_]+_[A-Z0-9_]*[A-Z0-9]$")
NO_KEYS = re.compile(r"OMP_NUM_THREADS|DETECTRON2_\w+|D2KD_\w+|TORCHINDUCTOR_\w+|\w+_REGISTRY")


@pytest.fixture(autouse=True)
def cosine(monkeypatch):
    """The method of docs/my_method.py has keys while these tests run."""
    heads = dict(DISTILLATION_HEAD_REGISTRY._obj_map)
    monkeypatch.setattr(DISTILLATION_HEAD_REGISTRY, "_obj_map", heads)
    runpy.run_path(str(ROOT / "docs" / "my_method.py"))


def known_keys():
    parts = [key.split(".") for key in flatten(get_d2kd_cfg())]
    return {".".join(key[:n]) for key in parts for n in range(1, len(key) + 1)}


def is_key(name, known):
    pattern = re.sub(r"<[A-Za-z]+>", "*", name)
    return any(fnmatchcase(key, pattern) for key in known) if "*" in pattern else name in known


@pytest.mark.parametrize("name", pages())
def test_every_key_exists(name):
    known = known_keys()
    for key in KEY.findall(pages()[name]):
        assert is_key(key.rstrip("."), known), key


@pytest.mark.parametrize("name", pages())
def test_every_shortened_key_exists(name):
    """`SOLVER.GUARD.NON_FINITE`, `.SPIKE` and ALL_RANKS."""
    known, last = known_keys(), ""
    leaves = {key.rpartition(".")[2] for key in known}
    for span in spans(pages()[name]):
        word = span.split()[0]
        if KEY.fullmatch(word):
            last = word
        elif re.fullmatch(r"\.[A-Z_]+", word):
            assert is_key(last.rpartition(".")[0] + word, known), (last, word)
        elif WORD.match(word):
            assert word in leaves or NO_KEYS.fullmatch(word), word


@pytest.mark.parametrize("name", pages())
def test_keys_take_the_values_that_stand_behind_them(name):
    for span in spans(pages()[name]):
        if KEY.match(span) and " " in span and "`" not in span:
            words = shlex.split(span)
            if len(words) % 2 == 0 and all(KEY.fullmatch(word) for word in words[::2]):
                merge_options(get_d2kd_cfg(), words)


@pytest.mark.parametrize("name", pages())
def test_defaults_are_those_of_the_code(name):
    values = flatten(get_d2kd_cfg())
    for key, default, _ in table(pages()[name], "| key | default | meaning |"):
        key, shown = key.strip("`"), default.strip("`")
        if key in values:
            assert shown == str(values[key]) or literal(shown) == plain(values[key]), key


def literal(text):
    try:
        return plain(ast.literal_eval(text))
    except (ValueError, SyntaxError):
        return text


def plain(value):
    return list(value) if isinstance(value, tuple) else value


@pytest.mark.parametrize("name", pages())
def test_yaml_blocks_have_known_keys_of_the_right_type(name):
    for text in fences(pages()[name], "yaml"):
        node = yaml.safe_load(text)
        if any(key != key.upper() for key in node):
            continue  # a study or another report, whose keys are in lower case
        node.pop("_BASE_", None)
        get_d2kd_cfg().merge_from_other_cfg(CfgNode(node))
