"""What users bring is opened by one reader of its kind; a new place that opens it fails here."""

import ast
from pathlib import Path

import pytest

import d2kd

PACKAGE = Path(d2kd.__file__).parent
READERS = {
    "pixels": (
        "PIL.Image.open", "PIL.ImageFile.Parser", "cv2.imread", "cv2.imreadmulti", "cv2.imdecode",
        "cv2.VideoCapture", "imageio", "skimage.io", "matplotlib.image", "matplotlib.pyplot.imread",
        "torchvision.io", "torchvision.datasets", "detectron2.data.DatasetMapper",
        "detectron2.data.dataset_mapper", "detectron2.data.detection_utils.read_image",
    ),
    "annotations": (
        "xml", "csv", "pycocotools.coco", "faster_coco_eval.COCO",
        "detectron2.data.datasets.load_coco_json",
        "detectron2.data.datasets.coco", "detectron2.data.datasets.register_coco_instances",
        "detectron2.data.get_detection_dataset_dicts", "numpy.loadtxt", "numpy.genfromtxt",
        "numpy.fromfile", "numpy.load", "pandas",
    ),
    "json and yaml": (
        "json.load", "json.loads", "json.JSONDecoder", "yaml.load", "yaml.safe_load",
        "yaml.full_load", "yaml.unsafe_load", "yaml.load_all", "yaml.safe_load_all",
        "yaml.SafeLoader", "yaml.Loader", "yaml.CSafeLoader", "yaml.FullLoader",
    ),
    "bytes": ("open", "io.open", "gzip", "zipfile", "tarfile", "urllib.request", "requests",
              "detectron2.utils.file_io.PathManager.open"),
}  # fmt: skip
METHODS = {"read_text": "bytes", "read_bytes": "bytes", "open": "bytes"}

ALLOWED = {
    "pixels": {
        "data/pixels.py": "the one reader of pixels",
        "data/mapper.py": "the subclass that reads with it",
        "inference/video.py": "the one reader of videos",
        "export/device_bundle/photo.py": "a program that runs without d2kd",
        "report/page.py": "pictures that matplotlib has just drawn",
    },
    "annotations": {
        "data/voc/annotation.py": "the one reader of xml",
        "evaluation/bootstrap.py": "COCO's evaluator, on what the reader of annotations gave",
        "evaluation/coco.py": "COCO's evaluator, on what the reader of annotations gave",
        "evaluation/records.py": "COCO's evaluator, on what the reader of annotations gave",
    },
    "json and yaml": {
        "file_io/untrusted.py": "the bounded reader of json and yaml",
        "config/files.py": "yaml with tags of configs that came with a package",
        "config/lazy_yaml.py": "a loader of values alone, for the bounded reader",
        "engine/metrics_file.py": "lines that this run wrote",
        "engine/changes.py": "a copy in json's types; no file",
        "export/description.py": "strings of an exported file's description",
        "heads/tokens_file.py": "a string of a file's description",
        "export/device_bundle/run.py": "a program that runs without d2kd",
        "export/runner.py": "strings of an exported file's description",
        "quickstart/digits.py": "the manifest that it wrote",
        "robustness/results.py": "results that it wrote",
        "study/results.py": "results that its runs wrote",
        "report/runs.py": "what is whole of a run's files, which may be damaged",
        "engine/run_files.py": "what is whole of a run's files, which may be damaged",
    },
    "bytes": {
        "file_io/files.py": "what is written and hashed",
        "export/device_bundle/run.py": "a program that runs without d2kd",
        "file_io/untrusted.py": "the bounded reader",
        "config/files.py": "yaml with tags of configs that came with a package",
        "config/model_zoo.py": "Detectron2's own source",
        "cores.py": "Linux's control groups",
        "data/pixels.py": "the one reader of pixels",
        "inference/video.py": "the mark at the end of a drawn video",
        "engine/metrics_file.py": "lines that this run wrote",
        "convert/mmdet.py": "a config of mmdetection, which is parsed and not run",
        "checkpoint/checkpointer.py": "what is written",
        "file_io/kinds.py": "entries of archives, whose pickles are searched and not read",
        "file_io/places.py": "a file without a name, to see whether there is place",
        "checkpoint/torch_file.py": "weights, behind their own gate",
        "checkpoint/weights_file.py": "weights, behind their own gate",
        "export/device_bundle/write.py": "a README that came with the package",
        "quickstart/digits.py": "the files that it wrote",
        "evaluation/coco.py": "detections that it writes",
        "study/results.py": "results that its runs wrote",
        "study/trainings.py": "what the consoles of its runs say",
        "reproduce/forks.py": "the console of a stage, which it writes",
        "pipeline/stages.py": "what its stages print",
        "robustness/results.py": "results that it wrote",
        "report/runs.py": "what is whole of a run's files, which may be damaged",
        "engine/run_files.py": "what is whole of a run's files, which may be damaged",
    },
}


def used(source):
    """Full names of what a module uses, as far as imports tell, with their lines."""
    tree = ast.parse(source)
    names, found = {}, []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for x in node.names:
                names[x.asname or x.name.partition(".")[0]] = (
                    x.name if x.asname else x.name.partition(".")[0]
                )
                found.append((x.name, node.lineno))
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.update({x.asname or x.name: f"{node.module}.{x.name}" for x in node.names})
            found += [(f"{node.module}.{x.name}", node.lineno) for x in node.names]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            parts, inner = [node.attr], node.value
            while isinstance(inner, ast.Attribute):
                parts, inner = [inner.attr, *parts], inner.value
            root = names.get(inner.id, "?") if isinstance(inner, ast.Name) else "?"
            found.append((".".join([root, *parts]), node.lineno))
        elif isinstance(node, ast.Name) and (node.id in names or node.id == "open"):
            found.append((names.get(node.id, node.id), node.lineno))
    return found


def kinds_of(source):
    """Kind of reader -> the lines that use one."""
    kinds = {}
    for name, line in used(source):
        root, _, method = name.partition(".") if name.startswith("?.") else ("", "", "")
        if method.rpartition(".")[2] in METHODS and root:
            kinds.setdefault(METHODS[method.rpartition(".")[2]], []).append(line)
        for kind, readers in READERS.items():
            if any(name == x or name.startswith(f"{x}.") for x in readers):
                kinds.setdefault(kind, []).append(line)
    return kinds


FOUND = {
    path.relative_to(PACKAGE).as_posix(): kinds_of(path.read_text("utf-8"))
    for path in sorted(PACKAGE.rglob("*.py"))
}


@pytest.mark.parametrize("kind", READERS)
def test_only_the_readers_open_files_of_users(kind):
    found = {name: kinds[kind] for name, kinds in FOUND.items() if kind in kinds}
    new = {name: lines for name, lines in found.items() if name not in ALLOWED[kind]}
    assert not new, (
        f"these open files themselves: {new}. Read images with d2kd.data.pixels, annotations with "
        "the readers of d2kd.data, json and yaml with d2kd.file_io; or add a line with the reason."
    )


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("import cv2\ncv2.imread(x)", "pixels"),
        ("from PIL import Image as I\nI.open(x)", "pixels"),
        ("from PIL.Image import open as look\nlook(x)", "pixels"),
        ("from detectron2.data import detection_utils as u\nu.read_image(x)", "pixels"),
        ("from detectron2.data import DatasetMapper", "pixels"),
        ("import json as j\nj.loads(x)", "json and yaml"),
        ("from yaml import safe_load", "json and yaml"),
        ("import xml.etree.ElementTree as E", "annotations"),
        ("from pycocotools.coco import COCO", "annotations"),
        ("def f(path):\n    return path.read_text()", "bytes"),
        ("with open(x) as file: pass", "bytes"),
        ("from pathlib import Path\nPath(x).open()", "bytes"),
    ],
)
def test_the_scan_sees(source, kind):
    assert kind in kinds_of(source)


@pytest.mark.parametrize(
    "source",
    ["import json\njson.dumps(x)", "from PIL import Image\nImage.fromarray(x)", "x.read()"],
)
def test_the_scan_passes(source):
    assert not kinds_of(source)
