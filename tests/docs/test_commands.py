"""Command lines of the pages: their programs, files, options and keys exist."""

import argparse
import re
import runpy
import sys
from argparse import Namespace
from pathlib import Path

import click
import pytest
from detectron2.modeling import META_ARCH_REGISTRY

from d2kd import DETECTOR_ADAPTER_REGISTRY, DISTILLATION_HEAD_REGISTRY
from d2kd.cli import main as d2kd
from d2kd.config.defaults import get_d2kd_cfg
from d2kd.config.loading import merge_config_file, merge_options
from d2kd.config.locate import resolve_config_file
from d2kd.config.sources.find import source_keys
from d2kd.study import load_study
from tests.conftest import ROOT
from tests.docs.pages import commands, pages

YOURS = re.compile(r"CONFIG|RUN|my\.yaml|student\.onnx|(configs/mine|output|teachers|cells)(/.*)?")
ALL = [(name, words) for name, text in pages().items() for words in commands(text)]


class Parsed(Exception):
    """Carries the arguments that a program has parsed."""


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """Each command is a process of its own, in the repository's folder."""
    for registry in (META_ARCH_REGISTRY, DETECTOR_ADAPTER_REGISTRY, DISTILLATION_HEAD_REGISTRY):
        monkeypatch.setattr(registry, "_obj_map", dict(registry._obj_map))
    monkeypatch.setenv("D2KD_TRACEBACK", "")
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize(("page", "words"), ALL, ids=lambda x: x if isinstance(x, str) else "")
def test_a_command_parses(page, words, monkeypatch):
    program, *arguments = words
    if program == "make":
        check_make(arguments)
    elif program == "d2kd":
        check_click(arguments)
    else:
        check_python(words, monkeypatch)


def check_make(arguments):
    text = (ROOT / "Makefile").read_text()
    for word in arguments:
        name = word.partition("=")[0]
        assert re.search(rf"^{name}(:| \?=)", text, re.MULTILINE), word


def check_click(arguments):
    command, path = d2kd, []
    while isinstance(command, click.Group) and arguments and arguments[0] != "--help":
        path.append(arguments.pop(0))
        assert path[-1] in command.commands, f"d2kd {' '.join(path)}"
        command = command.commands[path[-1]]
    if not arguments or arguments == ["--help"]:
        return
    given = command.make_context(" ".join(path), arguments).params
    given = {name.removesuffix("_"): value for name, value in given.items()}
    for teacher in given.get("teacher") or ():
        check_config(teacher) if isinstance(given["teacher"], tuple) else None
    for text in given.get("distill") or ():
        for method in text.split(","):
            imported(given["import"])
            assert method in DISTILLATION_HEAD_REGISTRY, method
    check_options(Namespace(**{"opts": given.get("options", ()), "imports": given.get("import"),
                               "config_file": given.get("config"), **given}))  # fmt: skip


def check_python(words, monkeypatch):
    """Run a script up to its argparse."""
    words = [word for word in words if word not in ("python", "-W", "ignore")]
    if words[0] == "torchrun":
        script = next(i for i, word in enumerate(words) if word.endswith(".py"))
        words = words[script:]
    module = words[0] == "-m"
    target, arguments = (words[1], words[2:]) if module else (words[0], words[1:])

    def stop(_parser, *_):
        raise Parsed(original(_parser, arguments))

    original = argparse.ArgumentParser.parse_args
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    monkeypatch.setattr(sys, "argv", [target, *arguments])
    if target == "d2kd":
        return check_click(arguments)
    if Path(target).name == "run.py":  # of a bundle
        target = "d2kd/export/device_bundle/run.py"
    with pytest.raises(Parsed) as caught:
        monkeypatch.syspath_prepend(str((ROOT / target).parent))
        (runpy.run_module if module else runpy.run_path)(target, run_name="__main__")
    given = caught.value.args[0]
    if hasattr(given, "config_file"):
        check_options(given)
    if hasattr(given, "study"):
        assert load_study(given.study).rows


def imported(files):
    for file in files or ():
        if "my_method" in file and "Cosine" in DISTILLATION_HEAD_REGISTRY:
            continue
        if "my_detector" in file and "OneLevel" in META_ARCH_REGISTRY:
            continue
        runpy.run_path(file)


def check_options(given):
    imported(getattr(given, "imports", ()))
    cfg = get_d2kd_cfg()
    if given.config_file and not YOURS.fullmatch(given.config_file):
        merge_config_file(cfg, given.config_file, "--config-file")
    words = list(given.opts)
    pairs = zip(words[::2], words[1::2], strict=True)
    merge_options(cfg, [x for pair in pairs if "<" not in pair[1] for x in pair])


def check_config(name):
    if not YOURS.fullmatch(name) and source_keys(name, "--teacher") is None:
        assert Path(resolve_config_file(name, "--teacher")).is_file()


def test_there_are_commands_of_every_kind():
    programs = {words[0] for _, words in ALL}
    assert programs == {"make", "d2kd", "python", "torchrun"} and len(ALL) > 80


@pytest.mark.parametrize("line", [
    "d2kd trane x.yaml", "d2kd train quickstart/absent.yaml", "d2kd train --distil PKD CONFIG",
    "d2kd train CONFIG SOLVER.MAX_ITERS 5", "d2kd train CONFIG --distill PKDD",
    "python train_net.py --config CONFIG --no-such-option", "python tools/absent.py", "make tests",
    "python train_net.py --config-file CONFIG DISTILL.TEACHER.CHECK_MIN_AP 30",
])  # fmt: skip
def test_a_wrong_command_is_found(line, monkeypatch):
    refused = (AssertionError, click.UsageError, ValueError, OSError, SystemExit)
    with pytest.raises(refused):
        test_a_command_parses("", commands(f"```\n{line}\n```")[0], monkeypatch)
