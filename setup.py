import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent
INIT = (ROOT / "d2kd" / "__init__.py").read_text(encoding="utf-8")
VERSION = re.search(r'^__version__ = "([^"]+)"', INIT, re.MULTILINE).group(1)
README = ROOT / "README.md"

QUICKSTART = ["timm>=1.0.31", "scikit-learn"]
EXPORT = ["onnx", "onnxruntime", "onnxscript"]
DOCS = ["sphinx", "myst-parser", "furo", "latex2mathml"]

setup(
    name="d2kd",
    version=VERSION,
    description="Knowledge distillation of object detectors for Detectron2",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    packages=[*find_packages(include=["d2kd", "d2kd.*"]), "d2kd.configs"],
    package_dir={"d2kd.configs": "configs"},
    package_data={
        "d2kd": ["**/*.md", "**/*.pyi", "py.typed"],
        "d2kd.configs": ["**/*.yaml"],
        "d2kd.quickstart": ["*.safetensors"],
        "d2kd.report": ["templates/*.j2"],
    },
    entry_points={"console_scripts": ["d2kd = d2kd.cli:main"]},
    python_requires=">=3.10,<3.14",
    # Detectron2 is needed but not listed: it has no PyPI release, and pip would not know which of
    # its builds to take. OpenCV is not listed either, for the reason Detectron2's setup.py gives:
    # several packages provide the same cv2, and installing a second one overwrites the first.
    install_requires=[
        "torch",
        "torchvision",
        "fvcore",
        "iopath",
        "pycocotools",
        "faster-coco-eval",
        "numpy",
        "scipy",
        "matplotlib",
        "pyyaml",
        "click",
        "lazy-loader",
        "jinja2",
        "tabulate",
        "safetensors",
    ],
    extras_require={
        "timm": ["timm>=1.0.31"],
        "quickstart": QUICKSTART,
        "export": EXPORT,
        "docs": DOCS,
        # and imagecorruptions-imaug without its dependencies, for the reason above
        "robustness": ["numba", "scikit-image"],
        "dev": [
            *QUICKSTART,
            *EXPORT,
            "adversarial-robustness-toolbox",
            "hypothesis",
            "import-linter",
            "jsonschema",
            "mypy",
            "pytest",
            "pytest-xdist",
            "ruff",
            "types-PyYAML",
            "types-tabulate",
            "pre-commit",
        ],
    },
    classifiers=[
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    zip_safe=False,
)
