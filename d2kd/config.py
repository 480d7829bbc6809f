"""The config keys that d2kd adds, and the safe loading of config files."""

import difflib
import os
from pathlib import Path
from typing import Sequence

import torch
import yaml
from detectron2 import model_zoo
from detectron2.config import CfgNode, get_cfg
from detectron2.utils.file_io import PathManager

from .backbones import add_backbone_config
from .checks import ConfigError, MissingFileError
from .data import add_data_config
from .detectors import add_detector_config
from .guards import add_guard_config
from .heads import DISTILLATION_HEAD_REGISTRY, head_defaults
from .solver import add_solver_config
from .validate import flatten

_HERE = Path(__file__).parent
CONFIGS = next(x for x in (_HERE / "configs", _HERE.parent / "configs") if x.is_dir())


def add_d2kd_config(cfg: CfgNode) -> None:
    """Add every key of d2kd to a stock config, in place.

    One node `DISTILL.<Head>` is added for each registered head, from the keyword arguments of
    its constructor, so import the file that registers your own head first.

    Args:
        cfg: a config from `detectron2.config.get_cfg`.
    """
    add_detector_config(cfg)
    add_backbone_config(cfg)
    add_solver_config(cfg)
    add_data_config(cfg)
    add_guard_config(cfg)
    cfg.DETERMINISTIC = False  # only operators that give the same bits again; on a GPU slower

    cfg.DISTILL = CfgNode()
    cfg.DISTILL.STUDENT = ""  # a meta-architecture: RetinaNet, FCOS, ATSS, GFL, GeneralizedRCNN
    cfg.DISTILL.HEADS = ()  # names in DISTILLATION_HEAD_REGISTRY
    cfg.DISTILL.SCHEDULE = (0, -1)  # warm-up iterations, last distilled iteration (-1: no end)
    cfg.DISTILL.INIT_FROM_TEACHER = "none"  # none | neck | neck+head, from teacher 0
    cfg.DISTILL.LR_FACTOR = 1.0  # of the heads' own layers, on top of SOLVER.BASE_LR
    cfg.DISTILL.COMPILE = False  # torch.compile of backbones and dense heads, in place
    cfg.DISTILL.GRADIENT_PERIOD = 0  # log each loss's gradient norm every N iterations (0: never)
    cfg.DISTILL.BALANCE = CfgNode()
    cfg.DISTILL.BALANCE.SHARES = ()  # of the gradient norm, per head or one for each; (): off
    cfg.DISTILL.BALANCE.STEPS = 20  # distilled steps in which the heads' weights are set so
    cfg.DISTILL.PICTURES = CfgNode()
    cfg.DISTILL.PICTURES.PERIOD = 0  # draw the heads' maps every N iterations (0: never)
    cfg.DISTILL.PICTURES.IMAGES = 2  # first images of DATASETS.TEST[0] to draw them on
    cfg.DISTILL.TEACHER = CfgNode()
    cfg.DISTILL.TEACHER.CONFIG_FILES = ()  # paths or model-zoo names, one per teacher
    cfg.DISTILL.TEACHER.WEIGHTS = ("",)  # "": the model zoo's, or the config's MODEL.WEIGHTS
    cfg.DISTILL.TEACHER.PRECISION = "fp32"  # fp32 | bf16 | fp16, of the teachers' forward
    cfg.DISTILL.TEACHER.CHANNELS_LAST = False  # the teachers' maps in NHWC memory order
    cfg.DISTILL.TEACHER.CACHE_DIR = ""  # folder for the teachers' outputs ("": no cache)
    cfg.DISTILL.TEACHER.CACHE_GB = 20.0  # GB (1e9 bytes) that the folder may take
    cfg.DISTILL.TEACHER.CHECK_IMAGES = 0  # test images to evaluate each teacher on before training
    cfg.DISTILL.TEACHER.CHECK_MIN_AP = 0.0  # box AP (0 to 100) under which training does not start
    for name, head in sorted(DISTILLATION_HEAD_REGISTRY):
        node = CfgNode({"WEIGHT": head.default_weight, "TEACHER": 0})
        node.update({key.upper(): value for key, value in head_defaults(head).items()})
        cfg.DISTILL[name] = node


def get_d2kd_cfg() -> CfgNode:
    """Return Detectron2's default config with d2kd's keys."""
    cfg = get_cfg()
    add_d2kd_config(cfg)
    return cfg


def load_config(path: str, options: Sequence[str]) -> CfgNode:
    """The config of a file and of KEY VALUE options, on the CPU where there is no GPU.

    Raises:
        ConfigError, FileNotFoundError: see `merge_config_file` and `merge_options`.
    """
    cfg = get_d2kd_cfg()
    merge_config_file(cfg, path, "--config-file")
    merge_options(cfg, options)
    if not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    return cfg


def merge_options(cfg: CfgNode, options: Sequence[str]) -> None:
    """Merge KEY VALUE pairs of the command line into `cfg`, in place.

    Raises:
        ConfigError: a key without a value, an unknown key, or a value of another type.
    """
    if len(options) % 2:
        raise ConfigError(
            f"Options are pairs KEY VALUE, but these are {len(options)}: {' '.join(options)}. "
            "Quote values with spaces, for example DISTILL.HEADS \"('PKD', 'BCKD')\"."
        )
    for key, value in zip(options[::2], options[1::2], strict=True):
        try:
            cfg.merge_from_list([key, value])
        except (KeyError, AssertionError, AttributeError):
            raise _unknown_key(cfg, key, "") from None
        except ValueError as error:
            raise ConfigError(f"{key}: {_type_hint(error)}") from error


def _unknown_key(cfg: CfgNode, key: str, where: str) -> ConfigError:
    keys = [name for name, _ in flatten(cfg)]
    near = difflib.get_close_matches(key, keys, n=3, cutoff=0.7)
    by_name = {name: name.rpartition(".")[2] for name in keys}
    last = key.rpartition(".")[2]
    near += [name for name in keys if by_name[name] == last and name not in near]
    hint = f" Did you mean {' or '.join(near[:6])}?" if near else ""
    return ConfigError(f"{where}{key} is no config key.{hint}")


def _type_hint(error: ValueError) -> str:
    text = str(error).split("\n")[0]
    if "float" in text and "int" in text:
        text += " (write a number with a decimal point, 1.0, where one is the default)"
    return text


def resolve_config_file(path: str, key: str) -> str:
    """Return the local path of a config.

    Args:
        path: a file; the folder of a run, whose config.yaml is meant; a config of d2kd, such as
            "train/gfl_R_50_FPN_1x.yaml"; or one of Detectron2's model zoo, such as
            "COCO-Detection/retinanet_R_101_FPN_3x.yaml".
        key: the option that named it, for the error message.

    Raises:
        FileNotFoundError: it is neither.
    """
    if PathManager.isdir(path):
        path = os.path.join(path, "config.yaml")
    if PathManager.isfile(path):
        return PathManager.get_local_path(path)
    shipped = CONFIGS / path.removeprefix("configs/")
    if shipped.is_file():
        return str(shipped)
    try:
        return model_zoo.get_config_file(path)
    except RuntimeError:
        raise MissingFileError(
            f"{key}: {path!r} is neither a file or the folder of a run (looked from "
            f"{os.getcwd()!r}), nor a config of d2kd such as 'train/gfl_R_50_FPN_1x.yaml', nor one "
            f"of the model zoo such as 'COCO-Detection/retinanet_R_101_FPN_3x.yaml'.{_near(path)}"
        ) from None


def _near(path: str) -> str:
    names = [str(x.relative_to(CONFIGS)) for x in CONFIGS.glob("**/*.yaml")]
    by_stem = {Path(name).stem: name for name in names}
    near = difflib.get_close_matches(Path(path).stem, by_stem, n=3, cutoff=0.6)
    return f" Did you mean {' or '.join(by_stem[name] for name in near)}?" if near else ""


def merge_config_file(cfg: CfgNode, path: str, key: str) -> None:
    """Merge a yaml file into `cfg`; only files of the installed Detectron2 may hold python tags.

    Args:
        cfg: changed in place.
        path: see `resolve_config_file`.
        key: the option that named the file, for error messages.

    Raises:
        ConfigError: the file needs `yaml.unsafe_load`, is not yaml, has unknown keys, or values of
            another type.
    """
    path = resolve_config_file(path, key)
    zoo = os.path.dirname(os.path.realpath(model_zoo.__file__))
    trusted = os.path.realpath(path).startswith(zoo + os.sep)
    try:
        cfg.merge_from_file(path, allow_unsafe=trusted)
    except yaml.constructor.ConstructorError as error:
        raise ConfigError(
            f"{key}: {path} (or its _BASE_) holds a yaml tag that can run code: {error.problem}. "
            "Write the plain value instead, for example SIZES: [[32, 40, 51], [64, 81, 102]]."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{key}: {path} is not valid yaml: {reason}") from error
    except KeyError as error:
        unknown = str(error.args[0]).rpartition(": ")[2]
        raise _unknown_key(cfg, unknown, f"{key}: {path}: ") from error
    except (ValueError, TypeError, AttributeError, AssertionError, RecursionError) as error:
        raise ConfigError(f"{key}: {path}: {_type_hint(error)}") from error


def without_pretrained(cfg: CfgNode) -> CfgNode:
    """`cfg`, changed in place: the trunk's own weights are not fetched, a checkpoint follows."""
    cfg.MODEL.TIMM.PRETRAINED, cfg.MODEL.TIMM.CHECKPOINT = False, ""
    return cfg
