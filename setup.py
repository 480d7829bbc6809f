import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent
INIT = (ROOT / "d2kd" / "__init__.py").read_text(encoding="utf-8")
VERSION = re.search(r'^__version__ = "([^"]+)"', INIT, re.MULTILINE).group(1)
README = ROOT / "README.md"

# The lowest version of each package that users need: without a known fault that a file could use,
# and tested, by `make test-lowest`. Where a fault decides, its CVE:
#   torch    2.10    2025-32434 and 2026-24747, weights_only=True runs code or corrupts memory
#   pillow   12.3    2026-25990, 2026-40192, 2026-54058 and others, images
#   jinja2   3.1.6   2025-27516
#   onnx     1.21    2026-27489, 2026-34445 and others, external data
#   scikit-learn     2024-5206
#   tqdm     4.66.3  2024-34062
QUICKSTART = ["timm>=1.0.31", "scikit-learn>=1.5.0"]
EXPORT = ["onnx>=1.21.0", "onnxruntime>=1.23.0", "onnxscript>=0.5.6"]
OPENVINO = [*EXPORT, "openvino>=2026.4.1"]
SPLIT = ["imagehash>=4.3.2"]
CLUSTER = ["submitit>=1.5.3"]
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
        "d2kd.export.device_bundle": ["*.txt"],
        "d2kd.quickstart": ["*.safetensors"],
        "d2kd.report": ["templates/*.j2"],
        "d2kd.reproduce": ["*.yaml"],
    },
    entry_points={"console_scripts": ["d2kd = d2kd.cli:main"]},
    python_requires=">=3.10,<3.14",
    # Detectron2 is needed but not listed: it has no PyPI release, and pip would not know which of
    # its builds to take. OpenCV is not listed either, for the reason Detectron2's setup.py gives:
    # several packages provide the same cv2, and installing a second one overwrites the first. Take
    # 4.12 or newer (CVE-2025-53644).
    install_requires=[
        "torch>=2.10.0",
        "torchvision>=0.25.0",
        "fvcore>=0.1.5.post20221221",
        "iopath>=0.1.9",
        "pycocotools>=2.0.8",
        "faster-coco-eval>=1.6.5",
        "numpy>=2.0.0",
        "scipy>=1.13.0",
        "matplotlib>=3.9.0",
        "pillow>=12.3.0",
        "pyyaml>=6.0.1",
        "click>=8.1.7",
        "lazy-loader>=0.4",
        "jinja2>=3.1.6",
        "tabulate>=0.9.0",
        "tqdm>=4.66.3",
        "safetensors>=0.4.5",
    ],
    extras_require={
        "timm": ["timm>=1.0.31"],
        "hf": ["transformers>=5.12.0"],
        "quickstart": QUICKSTART,
        "export": EXPORT,
        "openvino": OPENVINO,
        "docs": DOCS,
        # and imagecorruptions-imaug without its dependencies, for the reason above
        "split": SPLIT,
        "cluster": CLUSTER,
        "robustness": ["numba>=0.60.0", "scikit-image>=0.24.0"],
        "dev": [
            *QUICKSTART,
            *OPENVINO,
            *SPLIT,
            *CLUSTER,
            "transformers",
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
