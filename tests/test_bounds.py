"""The lowest versions of dependencies: every one has one, and an older package is named."""

import runpy
import sys

import pytest
import setuptools

from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "tools"))
import bounds  # noqa: E402

SAFE = {"torch": (2, 10), "pillow": (12, 3), "jinja2": (3, 1, 6), "onnx": (1, 21)}


@pytest.fixture
def asked(monkeypatch):
    """What setup.py gives to pip for users: extras for development stay out."""
    found = {}
    monkeypatch.setattr(setuptools, "setup", lambda **given: found.update(given))
    monkeypatch.chdir(ROOT)
    runpy.run_path(str(ROOT / "setup.py"))
    names = "timm", "hf", "quickstart", "export", "openvino", "split", "robustness", "cluster"
    extras = [found["extras_require"][name] for name in names]
    return {line for lines in (found["install_requires"], *extras) for line in lines}


def test_every_requirement_of_users_has_a_lowest_version(asked):
    lowest = bounds.lowest_versions()
    assert asked == {f"{name}>={version}" for name, version in lowest.items()}
    for name, version in SAFE.items():
        assert tuple(map(int, lowest[name].split("."))) >= version


def test_the_pinned_versions_are_not_lower():
    files = [ROOT / "requirements" / f"{name}.txt" for name in ("base", "dev")]
    lines = [line for file in files for line in file.read_text().splitlines()]
    pins = [line.partition(";")[0].strip() for line in lines]
    pinned = [line.lower().split("==") for line in pins if "==" in line]
    lowest = bounds.lowest_versions()
    compared = [name for name, version in pinned if name in lowest
                and numbers(version) >= numbers(lowest[name])]  # fmt: skip
    assert set(compared) == {name for name, _ in pinned if name in lowest} and len(compared) > 15


def numbers(version):
    return [int(part) for part in version.split(".") if part.isdigit()]


def test_lowest_requirements_are_exact():
    lines = bounds.lowest_requirements()
    assert all("==" in line for line in lines)
    assert {"torch==2.10.0", "pillow==12.3.0"} <= set(lines)
    assert any(line.startswith("pytest==") for line in lines)


@pytest.mark.parametrize("version, named", [("9.0", "pillow 9.0"), ("99.0", "")])
def test_an_older_package_is_named(tmp_path, monkeypatch, version, named):
    for name, text in {"pillow": version, "d2kd": "1.0\nRequires-Dist: pillow>=12.3.0"}.items():
        folder = tmp_path / f"{name}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {text}\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert bounds.check_bounds(sys.executable) == named
