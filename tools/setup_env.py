"""Set up the virtual environment that the Makefile's targets run in.

Run it with the Python to build on. If that Python has Detectron2, the environment sees all of its
packages and gets only what is missing. Otherwise it gets the versions in requirements/.
"""

import argparse
import os
import re
import shutil
import site
import subprocess
import sys
import tempfile
from pathlib import Path

from bounds import check_bounds, lowest_requirements

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "requirements"
SUPPORTED = ((3, 10), (3, 13))
GIT = (
    "git+https://github.com/facebookresearch/detectron2.git"
    "@02b5c4e295e990042a714712c21dc79b731e8833"
)
PARENT_PTH = "d2kd-parent.pth"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--venv", type=Path, default=Path(".venv"))
    parser.add_argument("--detectron2", choices=("pypi", "git"), default="pypi")
    parser.add_argument("--git", default="", help="git+URL@COMMIT for --detectron2 git")
    parser.add_argument("--lowest", action="store_true", help="the lowest versions in setup.py")
    args = parser.parse_args()

    check_python()
    venv = Path(os.path.abspath(args.venv))
    if Path(sys.prefix) == venv:  # called from the activated environment: keep what it is built on
        has_parent = (site_packages(venv) / PARENT_PTH).exists()
    else:
        has_parent = has_detectron2() and not args.lowest
        create(venv)
        write_parent(venv, has_parent)

    if has_parent:
        say("using the Detectron2 of", sys.executable)
        install_missing(venv)
    else:
        say("installing the pinned packages (some minutes and GB the first time)")
        if args.lowest:
            pip(venv, *lowest_requirements())
        else:
            requirements = (REQUIREMENTS / "base.txt", REQUIREMENTS / "dev.txt")
            pip(venv, *(arg for path in requirements for arg in ("-r", str(path))))
        if args.detectron2 == "git":
            install_git(venv, args.git or GIT)
        else:
            install_wheel(venv)
    pip(venv, "--no-deps", "-r", str(REQUIREMENTS / "no_deps.txt"))
    pip(venv, "--no-deps", "--no-build-isolation", "-e", str(ROOT))
    check_imports(venv)
    if too_old := check_bounds(python(venv)):
        fail(f"older than setup.py asks for, which may be unsafe: {too_old}; install newer ones")
    say("ready:", venv)


def check_python():
    if not SUPPORTED[0] <= sys.version_info[:2] <= SUPPORTED[1]:
        version = ".".join(map(str, sys.version_info[:2]))
        fail(f"d2kd runs on Python 3.10 to 3.13; {sys.executable} is {version}: make PYTHON=...")
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        fail(f"{sys.executable} cannot make virtual environments: apt-get install python3-venv")


def has_detectron2():
    try:
        from detectron2.config import get_cfg  # noqa: F401
    except Exception:  # absent, or broken in whatever way
        return False
    return True


def create(venv):
    """Make the environment, unless it is already there and stands on this Python."""
    record = venv / ".d2kd-python"
    this = f"{sys.executable} {sys.version_info[0]}.{sys.version_info[1]}"
    if record.exists() and record.read_text() != this:
        say("building", venv, "again, for", sys.executable)
        shutil.rmtree(venv)
    if not site_packages(venv).is_dir():
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    record.write_text(this)


def write_parent(venv, has_parent):
    """Let the environment see this Python's packages, also when this is an environment itself."""
    pth = site_packages(venv) / PARENT_PTH
    pth.unlink(missing_ok=True)
    if has_parent:
        folders = site.getsitepackages()
        if site.ENABLE_USER_SITE:
            folders.append(site.getusersitepackages())
        # addsitedir also reads the .pth files in there, so that editable installs are found.
        lines = [f"import site; site.addsitedir({folder!r})\n" for folder in folders]
        pth.write_text("".join(lines))


def install_missing(venv):
    """Install what nothing provides yet; torch, torchvision and numpy stay as they are."""
    code = """
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

CV2 = ("opencv-python-headless",)  # several packages provide it

def has(name):
    try:
        return find_spec("cv2") is not None if name in CV2 else bool(version(name))
    except PackageNotFoundError:
        return False

print(*(name for name in sys.argv[1:] if not has(name)))
for name in ("torch", "torchvision", "numpy"):
    print(name + "==" + version(name))
"""
    pins = {}
    for name in ("base.txt", "dev.txt"):
        for line in (REQUIREMENTS / name).read_text().splitlines():
            if re.match(r"\w", line):
                pins.setdefault(line.split("==")[0], []).append(line)
    command = [python(venv), "-c", code, *pins]
    lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    missing, *constraints = lines.splitlines()
    if not missing:
        return
    say("installing", missing)
    missing = missing.split()
    with tempfile.TemporaryDirectory() as folder:
        constraint = Path(folder) / "constraints.txt"
        constraint.write_text("\n".join(constraints))
        pinned = [line for name in missing for line in pins[name]]
        if pip(venv, "-c", str(constraint), *pinned, check=False) != 0:
            say("these versions do not go with what is there; letting pip choose others")
            pip(venv, "-c", str(constraint), *missing)


def install_wheel(venv):
    """Install the hashed wheel, whose tag says Python 3.10 but whose Python files run on all."""
    if list(site_packages(venv).glob("sal_detectron2-*.dist-info")):
        return
    say("installing Detectron2 from PyPI")
    uninstall(venv, "detectron2")
    with tempfile.TemporaryDirectory(dir=venv) as folder:
        folder = Path(folder)
        tag = ("--python-version", "3.10", "--only-binary=:all:", "--require-hashes")
        requirement = str(REQUIREMENTS / "detectron2.txt")
        pip(venv, "--no-deps", *tag, "--target", str(folder), "-r", requirement)
        shutil.rmtree(folder / "tools")
        for binary in (folder / "detectron2").glob("_C.*"):
            binary.unlink()
        for path in folder.iterdir():
            shutil.move(str(path), str(site_packages(venv) / path.name))


def install_git(venv, source):
    """Compile Detectron2 from source against the installed torch."""
    source = source if source.startswith("git+") else "git+" + source
    say("compiling Detectron2 from", source, "(this can take long)")
    uninstall(venv, "sal-detectron2")
    # Without dependencies: base.txt has them all, and an iopath newer than Detectron2 asks for.
    pip(venv, "--no-deps", "--no-build-isolation", source)


def check_imports(venv):
    command = [python(venv), "-W", "ignore", "-c", "import cv2; import detectron2.modeling"]
    # Away from the repository, so that nothing in it is imported by accident.
    if subprocess.run(command, cwd=tempfile.gettempdir()).returncode != 0:
        fail("these imports failed; where libGL is missing: apt-get install libgl1 libglib2.0-0")


def site_packages(venv):
    return venv / "lib" / "python{}.{}".format(*sys.version_info[:2]) / "site-packages"


def python(venv):
    return str(venv / "bin" / "python")


def uninstall(venv, name):
    command = [python(venv), "-m", "pip", "uninstall", "-q", "-y", name]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)


def pip(venv, *arguments, check=True):
    quiet = () if sys.stdout.isatty() else ("-q",)
    command = [python(venv), "-m", "pip", "install", "--disable-pip-version-check", *quiet]
    code = subprocess.run([*command, *arguments]).returncode
    if check and code != 0:
        fail("pip could not install the above")
    return code


def say(*words):
    print("[setup]", *words, flush=True)


def fail(message):
    sys.exit("[setup] " + message)


if __name__ == "__main__":
    main()
