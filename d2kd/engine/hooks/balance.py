"""Weights of the methods from their gradients, instead of by hand."""

import logging
import math
from pathlib import Path
from typing import Any, Dict, List, Sequence

import torch
import yaml
from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import Tensor

from ...adapters import DetectorOutput
from ...config.validate import check_shares
from ...file_io import write_atomically
from ...losses import mean_over_ranks
from ...losses.reduce import total
from .gradient_share import gradient_norms
from .shares import held_weights

_LEAST = 1e-6  # ratio of two gradients' norms, under which one is nothing but rounding


class GradientBalance(HookBase):
    """Sets the heads' weights in the first distilled steps, then leaves them or holds the shares.

    After each measured step, a head's weight is what gives it its share of the norms of the
    gradients at the student's features, the norms' ratios being averaged (geometrically, over the
    ranks that have both gradients and the last measured steps). A head that has none keeps its
    weight, which is said. With a band, see `held_weights`. Weights and shares are logged, the
    weights also written to OUTPUT_DIR/balance.yaml and kept in checkpoints. Ours.
    """

    def __init__(
        self,
        shares: Sequence[float],
        heads: Sequence[str],
        steps: int,
        output: str,
        period: int = 0,
        band: float = 0.0,
    ) -> None:
        """Set what is held, and when it is measured.

        Args:
            shares: see `check_shares`.
            heads: names.
            steps: first distilled steps that are measured, and measurements that are averaged.
            output: folder of the file.
            period: later steps are measured every so many iterations; 0: none, the weights stay.
            band: half-width of each share's band, as a part of the share; 0 for none.
        """
        self._shares = dict(zip(heads, check_shares(shares, heads), strict=True))
        self._steps, self._output, self._period, self._band = steps, output, period, band
        self._begun: Dict[str, float] = {}  # weights of a run that goes on
        self._logs: Dict[str, List[float]] = {head: [] for head in heads}
        self._begins, self._measured = True, 0

    def before_train(self) -> None:
        """A resumed run goes on with its weights."""
        self._begins = self._measured < self._steps
        if self._band > 0 and self._begun:  # they depend on those before
            self.trainer.distiller.weights.update(self._begun)
        else:
            self._set_weights()

    def before_step(self) -> None:
        """Measure in this step, or not any more."""
        distiller = self.trainer.distiller
        distiller.probes.pop("balance", None)
        again = self._period > 0 and self.trainer.iter % self._period == 0
        if distiller.scale > 0 and (self._begins or again):
            distiller.probes["balance"] = self.measure

    def measure(self, losses: Dict[str, Tensor], student: DetectorOutput) -> None:
        """Take the ratios of this step."""
        distiller = self.trainer.distiller
        sums = {"task": total(student.losses.values())}
        for head in self._shares:
            terms = [x for name, x in losses.items() if name.startswith(f"loss_{head}_")]
            sums[head] = total(terms) / (distiller.weights[head] * distiller.scale)
        norms = gradient_norms(sums, list(student.features.values()))
        self._log_shares(norms)
        self._measured += 1
        for head, found in self._logs.items():
            ratio = norms[head] / norms["task"] if norms["task"] > 0 else 0.0
            mine = (math.log(ratio), 1.0) if _LEAST < ratio < math.inf else (0.0, 0.0)
            log, ranks = mean_over_ranks(torch.tensor(mine, device=distiller.device)).tolist()
            if ranks > 0:
                self._logs[head] = [*found, log / ranks][-self._steps :]

    def _log_shares(self, norms: Dict[str, float]) -> None:
        """The shares of this step, with the weights it has."""
        scale, weights = self.trainer.distiller.scale, self.trainer.distiller.weights
        weighted = {head: norms[head] * weights[head] * scale for head in self._shares}
        if (everything := norms["task"] + sum(weighted.values())) > 0:
            for head, norm in weighted.items():
                get_event_storage().put_scalar(f"share/{head}", norm / everything)

    def after_step(self) -> None:
        """Set the weights for the next step, and write them when the first are known."""
        if "balance" not in self.trainer.distiller.probes:
            return
        self._set_weights()
        for head, weight in self.trainer.distiller.weights.items():
            get_event_storage().put_scalar(f"balance/{head}", weight)
        if self._begins and self._measured >= self._steps:
            self._begins = False
            self._say_unmeasured()
            self._write_yaml()

    def _say_unmeasured(self) -> None:
        if heads := [head for head, found in self._logs.items() if not found]:
            logging.getLogger(__name__).warning(
                "DISTILL.BALANCE.SHARES: in the first %d distilled steps %s had no gradient at the "
                "student's features, or the task had none, so the weights of these methods stay%s.",
                self._steps, ", ".join(heads), " until they have one" * (self._period > 0),
            )  # fmt: skip

    def after_train(self) -> None:
        """Write the last weights."""
        if self._period > 0 and not self._begins:
            self._write_yaml()

    def _set_weights(self) -> None:
        ratios = {h: math.exp(sum(x) / len(x)) for h, x in self._logs.items() if x}
        shares = {head: self._shares[head] for head in ratios}
        weights = self.trainer.distiller.weights
        weights.update(held_weights(weights, ratios, shares, self._band))

    def _write_yaml(self) -> None:
        if not comm.is_main_process():
            return
        weights = {head: {"WEIGHT": float(f"{self.trainer.distiller.weights[head]:.4g}")}
                   for head in self._shares}  # fmt: skip
        path = Path(self._output, "balance.yaml")
        text = yaml.safe_dump({"DISTILL": {**weights, "BALANCE": {"SHARES": []}}})
        write_atomically(path, lambda part: part.write_text(text))
        logging.getLogger(__name__).info("Balanced weights, in %s: %s", path, weights)

    def state_dict(self) -> Dict[str, Any]:
        """What was measured, and the weights that it gave."""
        weights = {head: self.trainer.distiller.weights[head] for head in self._shares}
        return {"logs": self._logs, "measured": self._measured, "weights": weights}

    def load_state_dict(self, state: Dict[str, Any]) -> None:
        """Go on from there."""
        self._logs = state["logs"]
        longest = max(map(len, self._logs.values()))
        self._measured = state.get("measured", longest)  # which earlier versions did not keep
        self._begun = state.get("weights", {})
