"""Detectron2's steps, whose losses come to the host in one copy."""

from typing import Any, Dict, Mapping

import torch
from detectron2.engine import AMPTrainer, SimpleTrainer
from torch import Tensor


class _InOneCopy(SimpleTrainer):
    """Stock ones copy each loss, and the host waits for each."""

    def _write_metrics(self, loss_dict: Mapping[str, Tensor], *args: Any, **kwargs: Any) -> None:
        super()._write_metrics(to_host(loss_dict), *args, **kwargs)


class Step(_InOneCopy):
    """Of `SimpleTrainer`."""


class MixedStep(_InOneCopy, AMPTrainer):
    """Of `AMPTrainer`, in mixed precision."""


def to_host(losses: Mapping[str, Tensor]) -> Dict[str, Tensor]:
    """Scalars on the CPU, in float64, which holds those of every type as they are."""
    together = torch.stack([x.detach().double() for x in losses.values()]).cpu()
    return dict(zip(losses, together, strict=True))
