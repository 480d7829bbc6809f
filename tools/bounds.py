"""The lowest versions that setup.py asks for: as a list to install, and as a check."""

import re
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_NOT_LOWEST = "onnx|openvino"  # of other Pythons and packages
TEST_TOOLS = "pytest", "hypothesis", "jsonschema"
_CHECK = """
from importlib.metadata import PackageNotFoundError, requires, version
from packaging.requirements import Requirement

for needed in map(Requirement, requires("d2kd")):
    try:
        found = version(needed.name)
    except PackageNotFoundError:
        continue
    if not needed.specifier.contains(found, prereleases=True):
        print(needed.name, found, end=", ")
"""


def lowest_versions():
    """Name -> lowest version, of every requirement in setup.py that has one."""
    found = re.findall(r'"([\w-]+)>=([\w.]+)"', (ROOT / "setup.py").read_text(encoding="utf-8"))
    return dict(found)


def lowest_requirements():
    """What `pip install` takes: these versions, and the pinned ones of packages without a bound."""
    lowest = lowest_versions()
    exact = [f"{k}=={v}" for k, v in lowest.items() if not re.match(_NOT_LOWEST, k)]
    for file in ("base.txt", "dev.txt"):
        for line in (ROOT / "requirements" / file).read_text(encoding="utf-8").splitlines():
            name = re.match(r"[\w-]*", line)[0].lower()
            if name and name not in lowest and (file == "base.txt" or name in TEST_TOOLS):
                exact.append(line)
    return exact


def check_bounds(python):
    """The packages of an interpreter that are older than d2kd asks for, as text; "" if none is."""
    command = [python, "-W", "ignore", "-c", _CHECK]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True,
                          cwd=tempfile.gettempdir())  # fmt: skip
    return done.stdout.removesuffix(", ")
