"""Detectron2's model zoo, read as files.

`import detectron2.model_zoo` needs `pkg_resources`, which setuptools 82 and newer no longer have.
"""

import ast
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Dict, Optional

_TABLE, _PREFIX = "CONFIG_PATH_TO_URL_SUFFIX", "S3_PREFIX"


def zoo_folder() -> Path:
    """The folder `model_zoo` of the installed Detectron2."""
    spec = find_spec("detectron2")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("No module named 'detectron2'")
    return Path(spec.submodule_search_locations[0], "model_zoo")


def zoo_config_file(name: str) -> Optional[Path]:
    """The config of a name such as "COCO-Detection/retinanet_R_50_FPN_1x.yaml"; None: no such."""
    path = zoo_folder() / "configs" / name
    return path if path.is_file() else None


def zoo_checkpoint_url(name: str) -> Optional[str]:
    """The address of the weights of a config's name; None where the zoo's table has none."""
    constants = _constants()
    key = name.removesuffix(".yaml").removesuffix(".py")
    suffix = constants[_TABLE].get(key)
    return f"{constants[_PREFIX]}{key}/{suffix}" if suffix else None


@lru_cache(maxsize=1)
def _constants() -> Dict[str, Any]:
    """The literal values that the class of addresses in Detectron2's model_zoo.py sets."""
    tree = ast.parse((zoo_folder() / "model_zoo.py").read_text(encoding="utf-8"))
    found: Dict[str, Any] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            if name in (_TABLE, _PREFIX):
                found[name] = ast.literal_eval(node.value)
    return found
