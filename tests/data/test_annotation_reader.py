"""Stock Detectron2 gets records: it never reads the json file of a user itself."""

import ast
from pathlib import Path

import d2kd

PACKAGE = Path(d2kd.__file__).parent
# what opens a json file in COCO's format, and the only files that may use it
READERS = {
    "load_coco_json": set(),
    "get_detection_dataset_dicts": set(),
    "register_coco_instances": set(),
    "convert_to_coco_json": set(),
    "DatasetCatalog.get": {"data/function_sets.py"},
}


def names_in(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield f"{node.value.id}.{node.attr}"
            yield node.attr
        if isinstance(node, ast.Name):
            yield node.id
        if isinstance(node, ast.ImportFrom):
            yield from (alias.name for alias in node.names)


def test_annotations_have_one_reader():
    found = {name: set() for name in READERS}
    for path in PACKAGE.rglob("*.py"):
        for name in READERS.keys() & set(names_in(path)):
            found[name].add(path.relative_to(PACKAGE).as_posix())
    assert found == READERS


def test_stock_loaders_get_records():
    """`build_detection_test_loader(cfg, name)` would read the json file in its own way."""
    calls = [
        node
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and getattr(node.func, "id", "") == "build_detection_test_loader"
    ]
    assert len(calls) >= 3
    assert all("dataset" in {k.arg for k in call.keywords} and not call.args for call in calls)
