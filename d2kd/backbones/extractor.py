"""What timm's feature extractors lack: strict and safe weights, cutting, their modules in order."""

from typing import Any, Dict, List, Sequence

from torch import nn

from ..checkpoint import SafeCheckpointer
from ..checkpoint.address import is_address
from ..checkpoint.values import as_tensors
from ..errors import ConfigError, MissingFileError


def load_weights(body: nn.Module, path: str) -> None:
    """Fill a feature extractor from the file MODEL.TIMM.CHECKPOINT, read as data only.

    Args:
        body: changed in place.
        path: `.pth`, `.bin` or `.safetensors` file of the whole timm model; the tensors of the
            classifier and of stages that `body` lacks are left out.

    Raises:
        ValueError: unreadable, or it does not fill every tensor.
        FileNotFoundError: no such file.
    """
    key = "MODEL.TIMM.CHECKPOINT"
    if is_address(path):
        raise ConfigError(f"{key}: {path}: it is not downloaded; save it here, and give its path.")
    try:
        _ExtractorCheckpointer(body, save_to_disk=False).load(path, checkpointables=[])
    except FileNotFoundError as error:
        made = path.startswith("datasets/weights/")
        make = "run python datasets/prepare_weights.py, in a clone of d2kd, or " if made else ""
        raise MissingFileError(
            f"{key}: {path!r} not found: {make}let timm download its weights by "
            f"MODEL.TIMM.PRETRAINED True {key} ''."
        ) from error
    except ValueError as error:
        raise ConfigError(f"{key}: {error}") from error


def drop_unused(body: nn.Module, last: str) -> None:
    """Remove the blocks after the module `last`, which timm keeps in the EfficientNet family.

    Their parameters would have no gradient, which stops distributed training.
    """
    parent, _, index = last.rpartition(".")
    blocks = getattr(body, parent, None)
    if isinstance(blocks, nn.Sequential):
        setattr(body, parent, blocks[: int(index) + 1])


def modules_up_to(body: nn.Module, last: str) -> List[nn.Module]:
    """List the modules of `body` in order of use, up to and with the one timm calls `last`.

    Containers of these modules are in the list as well, so treat each one without its children.

    Raises:
        ConfigError: there is no such module.
    """
    names = [timm_name(body, name) for name, _ in body.named_modules()]
    parts = [i for i, name in enumerate(names) if f"{name}_".startswith(f"{_flat(last)}_")]
    if not parts:
        raise ConfigError(
            f"MODEL.TIMM.FREEZE_AT: timm says that this model's stage ends with {last!r}, which it "
            "does not have. Set it to 0, or to another stage."
        )
    return list(body.modules())[: max(parts) + 1]


def timm_name(body: nn.Module, name: str) -> str:
    """What timm's whole model calls a module or tensor of its feature extractor, with "_" for ".".

    Some extractors hold the model as "model" or "body", and some flatten its sequences.
    """
    for holder in ("model", "body"):
        if [child for child, _ in body.named_children()] == [holder]:
            name = name.removeprefix(holder).removeprefix(".")
    return _flat(name)


class _ExtractorCheckpointer(SafeCheckpointer):
    """Fills a feature extractor, completely, from the weights of the whole timm model."""

    def _load_model(self, checkpoint: Dict[str, Any]) -> Any:
        weights = checkpoint["model"]
        weights = weights.get("state_dict", weights) if isinstance(weights, dict) else weights
        as_tensors(weights)
        weights = {_flat(k): v for k, v in weights.items()}
        names = {k: timm_name(self.model, k) for k in self.model.state_dict()}
        filled = {k: weights[flat] for k, flat in names.items() if flat in weights}
        missing = [k for k in names if k not in filled and not k.endswith("num_batches_tracked")]
        shapes = {k: (tuple(filled[k].shape), tuple(x.shape))
                  for k, x in self.model.state_dict().items() if k in filled}  # fmt: skip
        wrong = [f"{k} {a} instead of {b}" for k, (a, b) in shapes.items() if a != b]
        if missing or wrong:
            raise ValueError(
                f"it does not fill the trunk. Missing of {len(names)} tensors: {_some(missing)}; "
                f"of another shape: {_some(wrong)}. Check that MODEL.TIMM.NAME is the timm model "
                "that it was saved from, with timm's names for the weights."
            )
        return super()._load_model({"model": filled})


def _flat(name: str) -> str:
    """One name for "stages.0.gamma" of a timm model and "stages_0.gamma" of its extractor."""
    return name.replace(".", "_")


def _some(names: Sequence[str]) -> str:
    if len(names) > 5:
        return f"{', '.join(names[:5])} and {len(names) - 5} more"
    return ", ".join(names) or "none"
