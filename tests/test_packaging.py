import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import setuptools
import yaml

from d2kd import __version__

ROOT = Path(__file__).resolve().parent.parent


def test_import_without_detectron2_says_how_to_install_it():
    code = "import sys; sys.modules['detectron2'] = None; import d2kd"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode != 0
    last = result.stderr.strip().splitlines()[-1]
    assert "d2kd needs Detectron2" in last and "pip install" in last


def test_setup_ships_every_module(monkeypatch):
    metadata = {}
    monkeypatch.setattr(setuptools, "setup", lambda **kwargs: metadata.update(kwargs))
    monkeypatch.chdir(ROOT)  # where pip runs it
    runpy.run_path(str(ROOT / "setup.py"))

    folders = {path.parent.relative_to(ROOT) for path in ROOT.glob("d2kd/**/*.py")}
    found = {".".join(folder.parts) for folder in folders}
    assert set(metadata["packages"]) == found | {"d2kd.configs"}
    assert metadata["package_dir"] == {"d2kd.configs": "configs"}
    assert {x.suffix for x in ROOT.glob("configs/**/*") if x.is_file()} == {".yaml"}
    assert (ROOT / "d2kd" / "py.typed").exists()
    assert metadata["version"] == __version__
    names = {re.match(r"[\w-]+", line).group() for line in metadata["install_requires"]}
    assert "detectron2" not in names  # not on PyPI, so pip could not resolve it
    assert not any(name.startswith("opencv") for name in names)


REQUIREMENTS = sorted(ROOT.glob("requirements/*.txt"))


@pytest.mark.parametrize("path", REQUIREMENTS, ids=lambda path: path.name)
def test_requirements_are_exact(path):
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    assert lines
    for line in lines:
        assert re.match(r"[\w.-]+==[\w.]+(;| --hash=|$)", line), line


def test_yaml_files_need_no_unsafe_loader():
    folders = ("configs", "d2kd", "tests")
    paths = [path for folder in folders for path in ROOT.glob(f"{folder}/**/*.y*ml")]
    assert any("configs" in path.parts for path in paths)
    for path in paths:
        yaml.safe_load(path.read_text())  # raises on !!python tags
