"""Help, versions, completion and usage errors wait for nothing; `import d2kd` is lazy and full."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import d2kd
from tests.conftest import ROOT

HEAVY = ("torch", "detectron2", "fvcore", "numpy", "matplotlib", "scipy")
PUBLIC = [
    "DETECTOR_ADAPTER_REGISTRY", "DISTILLATION_HEAD_REGISTRY", "DetectorAdapter", "DetectorOutput",
    "DetectorSpec", "DistillationHead", "DistillationSchedule", "DistillationTrainer", "Distiller",
    "Teacher", "add_d2kd_config", "backbones", "build_adapter", "build_teacher", "detectors",
    "losses",
]  # fmt: skip


def python(code, **environment):
    """Run code in a process of its own, in an empty state of Python."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False
    )
    assert done.returncode == 0, done.stderr
    return done


RUN = """
import sys
from d2kd.cli import main
for arguments in {arguments}:
    try:
        main(arguments, prog_name="d2kd")
    except SystemExit as end:
        print("CODE", end.code, [m for m in {heavy} if m in sys.modules], file=sys.stderr)
status = open("/proc/self/status").read()
print("MB", int(status.partition("VmHWM:")[2].split()[0]) // 1024, file=sys.stderr)
"""
HELP = [["--help"], ["-h"], ["--version"], ["train", "--help"], ["convert", "mmdet", "--help"],
        ["completion", "bash"], ["completion", "zsh"]]  # fmt: skip
USAGE_ERRORS = [
    [], ["trane"], ["train"], ["train", "--teechers", "x", "y"], ["predict", "run"], ["study"],
    ["train", "x.yaml", "--teechers", "y"], ["eval", "x.yaml", "--num-gpus", "two"], ["maps"],
    ["export", "x.yaml", "--score-threshold", "2"], ["completion", "fish"], ["config", "--shema"],
]  # fmt: skip


@pytest.mark.parametrize(("commands", "code"), [(HELP, 0), (USAGE_ERRORS, 2)])
def test_nothing_heavy_is_imported_for(commands, code):
    done = python(RUN.format(arguments=commands, heavy=HEAVY))
    assert done.stderr.count(f"CODE {code} []") == len(commands), done.stderr
    assert int(re.search(r"MB (\d+)", done.stderr)[1]) <= 60
    assert "Warning" not in done.stderr


def test_no_option_of_a_command_is_found_out_late():
    """Every command can be parsed, and says what it lacks, without the library."""
    code = f"""
import sys
import click
from d2kd.cli import main
def walk(command, path):
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            walk(child, [*path, name])
    try:
        main([*path, "--help"], prog_name="d2kd")
    except SystemExit:
        pass
walk(main, [])
print("LOADED", [m for m in {HEAVY} if m in sys.modules], file=sys.stderr)
"""
    assert "LOADED []" in python(code).stderr


def test_a_shell_completes_commands_options_and_configs():
    def complete(words, number):
        env = {"_D2KD_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(number)}
        done = python(RUN.format(arguments=[[]], heavy=HEAVY), **env)
        assert "CODE 0 []" in done.stderr
        return [line.partition(",")[2] for line in done.stdout.splitlines()]

    assert complete("d2kd tr", 1) == ["train"]
    assert "--teacher-weights" in complete("d2kd train --tea", 2)
    assert "train/gfl_R_18_FPN_1x.yaml" in complete("d2kd train train/gfl_R_18", 2)
    assert complete("d2kd completion z", 2) == ["zsh"]
    assert complete("d2kd train outp", 2) == ["outp"]  # a file, which the shell completes


def script(shell):
    code = f"from d2kd.cli import main; main(['completion', '{shell}'])"
    return python(code).stdout


def test_bash_offers_shipped_configs():
    program = Path(sys.executable).parent / "d2kd"
    if not program.is_file():
        pytest.skip("the command d2kd is not installed")
    ask = f"""{script("bash")}
COMP_WORDS=(d2kd train own/) COMP_CWORD=2
_d2kd_completion {program}
echo "${{COMPREPLY[@]}}" """
    done = subprocess.run(["bash"], input=ask, capture_output=True, text=True, cwd=ROOT, check=True)
    assert {"own/student.yaml", "own/teacher.yaml"} <= set(done.stdout.split())


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_the_script_is_one_that_the_shell_reads(shell):
    text = script(shell)
    assert "_D2KD_COMPLETE" in text and "d2kd" in text
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=text, text=True, check=True)


def test_import_loads_neither_and_dir_knows_the_names():
    done = python(f"""
import sys, d2kd
print([m for m in {HEAVY} if m in sys.modules], d2kd.__version__, sorted(dir(d2kd)))
""")
    assert done.stdout.startswith("[] 0.") and "'Distiller'" in done.stdout


def test_public_names_are_what_they_were():
    assert sorted(d2kd.__all__) == PUBLIC
    for name in PUBLIC:
        assert getattr(d2kd, name) is not None
    stub = ast.parse((ROOT / "d2kd" / "__init__.pyi").read_text())
    names = [a.asname for n in stub.body if isinstance(n, ast.ImportFrom) for a in n.names]
    assert sorted(names) == PUBLIC


FINDS = """
import os
import d2kd
from detectron2.config import get_cfg
from detectron2.modeling import build_model
def find(name, path):
    cfg = get_cfg()
    d2kd.add_d2kd_config(cfg)
    cfg.merge_from_file(path)
    cfg.MODEL.DEVICE, cfg.MODEL.TIMM.PRETRAINED = "cpu", False
    cfg.MODEL.META_ARCHITECTURE = name
    cfg.MODEL.BACKBONE.NAME = "build_timm_fpn_backbone"
    cfg.MODEL.TIMM.NAME = "mobilenetv3_small_050"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["c3", "c4", "c5"]
    cfg.MODEL.FPN.IN_FEATURES, cfg.MODEL.FPN.TOP_BLOCK = ["c3", "c4", "c5"], "p6p7"
    try:
        print(name, type(build_model(cfg)).__module__, flush=True)
    except ValueError as error:  # the Distiller is there, and says what its config lacks
        print(name, type(error), error, flush=True)
for case in {cases}:
    if os.fork() == 0:  # nothing is registered yet
        find(*case)
        os._exit(0)
    os.wait()
"""
FOUND = [
    ("ATSS", "atss_R_18_FPN", "d2kd.detectors.atss"),
    ("AutoAssign", "autoassign_R_18_FPN", "d2kd.detectors.auto_assign"),
    ("DDOD", "ddod_R_18_FPN", "d2kd.detectors.ddod"),
    ("RepPoints", "reppoints_R_18_FPN", "d2kd.detectors.reppoints"),
    ("GFL", "gfl_R_18_FPN", "d2kd.detectors.gfl"),
    ("FCOS", "fcos_R_18_FPN", "d2kd.detectors.fcos"),
    ("Distiller", "gfl_R_18_FPN", "DISTILL.HEADS must name at least one head"),
]


def test_detectron2_finds_what_d2kd_adds():
    """`import d2kd` and the keys are enough for Detectron2's own `build_model`, of each alone."""
    folder = ROOT / "configs" / "detectors"
    cases = [(name, str(folder / f"{config}.yaml")) for name, config, _ in FOUND]
    lines = python(FINDS.format(cases=cases)).stdout.splitlines()
    for line, (name, _, expected) in zip(lines, FOUND, strict=True):
        assert line.startswith(f"{name} ") and expected in line


def test_registries_are_full_when_they_are_asked():
    done = python("""
import sys
import d2kd.engine.command_line  # a config that a command reads may name any of them
from detectron2.modeling import META_ARCH_REGISTRY
assert {"Distiller", "TokenLearner", "DDOD"} <= {name for name, _ in META_ARCH_REGISTRY}
from d2kd import DETECTOR_ADAPTER_REGISTRY, DISTILLATION_HEAD_REGISTRY
print(len(list(DISTILLATION_HEAD_REGISTRY)), "DenseDetectorAdapter" in DETECTOR_ADAPTER_REGISTRY)
import d2kd.engine.main  # a run waits for neither statistics nor plots that it may not need
print([m for m in ("scipy", "matplotlib", "timm") if m in sys.modules])
""")
    assert done.stdout.split() == ["18", "True", "[]"]
