"""Detectron2's model zoo read as files: what the stock module gives, and never that module."""

import subprocess
import sys

import pytest

from d2kd.config.model_zoo import zoo_checkpoint_url, zoo_config_file, zoo_folder
from tests.conftest import ROOT

STOCK = """
import sys, types
sys.modules["pkg_resources"] = types.ModuleType("pkg_resources")  # newest setuptools has none
from detectron2.model_zoo import model_zoo
for name, _ in sorted(model_zoo._ModelZooUrls.CONFIG_PATH_TO_URL_SUFFIX.items()):
    print(name, model_zoo.get_checkpoint_url(name + ".yaml"))
"""
NEVER = """
import importlib, pkgutil, sys
sys.modules["detectron2.model_zoo"] = sys.modules["pkg_resources"] = None
import d2kd
names = [m.name for m in pkgutil.walk_packages(d2kd.__path__, "d2kd.")]
for name in names:
    if not name.endswith("__main__"):
        importlib.import_module(name)
print(len(names))
"""


def run(code, python=sys.executable):
    done = subprocess.run(
        [python, "-W", "ignore", "-c", code], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_addresses_are_those_of_detectron2(warm_python):
    lines = [line.split() for line in run(STOCK, warm_python).splitlines()]
    assert len(lines) > 50
    for name, address in lines:
        assert zoo_checkpoint_url(name) == zoo_checkpoint_url(f"{name}.yaml") == address
        assert address.startswith("https://dl.fbaipublicfiles.com/detectron2/")


@pytest.mark.parametrize("name", ["COCO-Detection/no_such.yaml", "", ".", "COCO-Detection"])
def test_other_names_have_neither_address_nor_file(name):
    assert zoo_checkpoint_url(name) is None and zoo_config_file(name) is None


def test_configs_are_the_installed_files():
    found = zoo_config_file("COCO-Detection/retinanet_R_50_FPN_1x.yaml")
    assert found.is_relative_to(zoo_folder()) and "RetinaNet" in found.read_text()
    assert zoo_checkpoint_url("COCO-Detection/retinanet_R_50_FPN_1x.yaml")


def test_no_module_of_d2kd_imports_the_stock_one():
    assert int(run(NEVER)) > 150
