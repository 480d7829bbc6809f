"""From a capsule to a model that stands where the failed step began."""

from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Sequence, Tuple

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from ...checkpoint import read_weights
from ...checkpoint.values import digest
from ...checkpoint.weights_file import split_pin
from ...config import get_d2kd_cfg, merge_config_file
from ...config.loading import merge_options, with_plain_teachers, without_pretrained
from ...config.validate import check_config
from ...cores import cpu_kind
from ...data import register_custom_datasets
from ...distiller import Distiller
from ...engine.builders import Builders
from ...engine.capsule.moment import Moment
from ...engine.capsule.read import Capsule, naming_damage
from ...engine.capsule.weights import SECTIONS, parts_of
from ...engine.capsule.write import CONFIG
from ...engine.provenance import describe_run
from ...engine.ranks import make_deterministic
from ...errors import ConfigError, MissingFileError
from ...file_io import sha256_of
from ...quantize import beside, set_rounding
from ...quantize.state import SECTION
from ...text import plain

_MOST_THREADS = 256
_TEACHER = "DISTILL.TEACHER.WEIGHTS"
_SAID = {"torch": "PyTorch", "detectron2": "Detectron2", "d2kd": "d2kd", "commit": "d2kd's commit"}


class Scene(NamedTuple):
    """What a step computes with.

    `missing` says in phrases what is not as it was in the run, so that bits may differ.
    """

    cfg: CfgNode
    model: nn.Module
    moment: Moment
    batch: List[Dict[str, Any]]
    missing: List[str]

    def reset(self) -> None:
        """Put the model back to where the step began."""
        self.moment.put_back()
        self.model.zero_grad(set_to_none=True)


def rebuild(capsule: Capsule, options: Sequence[str] = (), ranks: int = 1) -> Scene:
    """Build the model of a capsule and put it where its step began.

    Args:
        capsule: of the step.
        options: KEY VALUE pairs, for files that have moved.
        ranks: that repeat the step together.

    Raises:
        ConfigError: what cannot do without is damaged or missing, such as a teacher's config; or
            the capsule names a teacher's weights to download, and no option does.
    """
    cfg = _config(capsule, options)
    missing = [plain(x) for x in capsule.record["missing"]]
    try:
        register_custom_datasets(cfg)
    except (ConfigError, OSError) as error:
        missing.append(f"the data, for names of classes ({error})")
    torch.set_num_threads(_threads(capsule.record["run"]))
    make_deterministic(cfg.DETERMINISTIC)
    batch = capsule.batch()
    model = Builders.build_model(cfg).train()
    with naming_damage(capsule.folder):
        _settle_teachers(model, capsule.record["teachers"], missing)
        _load_weights(model, capsule, missing)
        _set_rounding(model, cfg, capsule.record["iteration"])
        state, moment = capsule.files["state"], Moment(model)
        _set_factors(model, state)
        moment.load(capsule.record["random"], state)
        _compare(cfg, capsule.record, missing, ranks)
    return Scene(cfg, model, moment, batch, missing)


def _config(capsule: Capsule, options: Sequence[str]) -> CfgNode:
    cfg = get_d2kd_cfg()
    merge_config_file(cfg, str(capsule.folder / CONFIG), "FOLDER")
    _check_addresses(cfg, options)
    merge_options(cfg, options)
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = cfg.OUTPUT_DIR = ""
    without_pretrained(with_plain_teachers(cfg))
    check_config(cfg)
    return cfg


def _check_addresses(cfg: CfgNode, options: Sequence[str]) -> None:
    """Refuse a download that the capsule asks for; MODEL.WEIGHTS is not read."""
    weights = cfg.DISTILL.TEACHER.WEIGHTS
    if _TEACHER not in options[::2] and (found := [x for x in weights if "://" in str(x)]):
        raise ConfigError(
            f"The capsule names weights to download, {plain(found[0])}: if you trust them, type "
            f'{_TEACHER} "{plain(weights)}" behind FOLDER, or the name of a file.'
        )


def _threads(run: Dict[str, Any]) -> int:
    found = run.get("threads")
    return min(max(found, 1), _MOST_THREADS) if isinstance(found, int) else torch.get_num_threads()


def _settle_teachers(model: nn.Module, recorded: List[Dict[str, Any]], missing: List[str]) -> None:
    """Let teachers compute as they did; those with other weights are named."""
    for i, (teacher, then) in enumerate(zip(getattr(model, "teachers", []), recorded, strict=True)):
        teacher.settle(then["precision"])
        if digest(teacher.detector) != then["digest"]:
            missing.append(
                f"teacher {i} as it was ({plain(then['weights'])}, digest {plain(then['digest'])})"
                f": {teacher.weights} holds other weights; name them with DISTILL.TEACHER.WEIGHTS"
            )


def _set_factors(model: nn.Module, state: Dict[str, Tensor]) -> None:
    if isinstance(model, Distiller):
        model.scale = state["scale"].item()
        model.weights = {name: state[f"weight.{name}"].item() for name in model.weights}


def _set_rounding(model: nn.Module, cfg: CfgNode, iteration: int) -> None:
    """As in the step, whose ranges have seen nothing yet if it was the first that rounded."""
    if cfg.QUANTIZE.ENABLED:
        set_rounding(getattr(model, "student", model), iteration >= cfg.QUANTIZE.START)


def _load_weights(model: nn.Module, capsule: Capsule, missing: List[str]) -> None:
    known = _from_checkpoint(capsule, missing)
    owners: Dict[str, Any] = {"student": model, "heads": getattr(model, "heads", None)}
    owners["ranges"] = beside(model).get(SECTION)
    for part, state in parts_of(model).items():
        found = {**known.get(part, {}), **capsule.files.get(part, {})}
        if left := [name for name in state if name not in found]:
            missing.append(f"{len(left)} of {len(state)} tensors of the {part}")
        owners[part].load_state_dict({**state, **{k: x for k, x in found.items() if k in state}})


def _from_checkpoint(capsule: Capsule, missing: List[str]) -> Dict[str, Dict[str, Tensor]]:
    """What the capsule names of a checkpoint, by part."""
    record = capsule.record["checkpoint"]
    if not any(record["has"].values()):
        return {}
    try:
        path, data = _read_checkpoint(capsule.folder, record)
    except MissingFileError as error:
        missing.append(f"a checkpoint that has weights of the step ({plain(error)})")
        return {}
    if sha256_of(path) != record["sha256"]:
        missing.append(f"the checkpoint {plain(record['path'])} as it was: it holds something else")
    return {
        part: {name: data[SECTIONS[part]][name] for name in names}
        for part, names in record["has"].items()
    }


def _read_checkpoint(folder: Path, record: Dict[str, Any]) -> Tuple[str, Dict[str, Any]]:
    """The file, which lies relative to the capsule or where MODEL.WEIGHTS named it."""
    beside = folder / record["path"]
    path = beside if beside.is_file() else Path(split_pin(record["path"])[0])
    if not path.is_file():
        raise MissingFileError(f"{record['path']} does not exist")
    return str(path), read_weights(str(path))


def _compare(cfg: CfgNode, record: Dict[str, Any], missing: List[str], ranks: int) -> None:
    """Name what else bits depend on, where it is another than in the run."""
    then, now = record["run"], describe_run(cfg)
    for key, name in _SAID.items():
        if then.get(key) != now[key]:
            missing.append(f"{name} {plain(then.get(key))}: here it is {now[key]}")
    if record["cpu"] != cpu_kind():
        missing.append(f"a CPU of the kind {plain(record['cpu'])}: here it is {cpu_kind()}")
    if then.get("device") != now["device"]:
        missing.append(f"the device {plain(then.get('device'))}: here it is {now['device']}")
    if then.get("ranks") != ranks:
        missing.append(f"the other of {plain(then.get('ranks'))} ranks, whose batches counted too")
