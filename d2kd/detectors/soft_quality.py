"""The soft distribution-guided quality predictor (SDGQP)."""

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from ..errors import check_choice
from ..losses.precision import at_least_float
from .quality import QUALITY_PREDICTOR_REGISTRY, _convolutions

SELECTORS = ("entropy", "learned", "fixed", "bank")
_BANK = (1, 2, 4, 8)


def add_sdgqp_config(node: CfgNode) -> None:
    """Add MODEL.GFL.SDGQP."""
    node.SDGQP = CfgNode()
    node.SDGQP.SELECTOR = "entropy"  # entropy | learned | fixed | bank
    node.SDGQP.TOPK = 8  # largest probabilities of a side that can be selected
    node.SDGQP.KAPPA = 4.0  # how many are, where SELECTOR is fixed; the start of learned
    node.SDGQP.TAU = 0.25  # softness of the selection's edge, > 0


@QUALITY_PREDICTOR_REGISTRY.register()
class SDGQP(nn.Sequential):
    """DGQP whose statistics are selected softly, at each place and side, by the input.

    The name and the idea, dynamical selection of distribution statistics, are those of the abstract
    of "Parallel-Circuitized distillation for dense object detection" (Displays 81, 2024, doi
    10.1016/j.displa.2023.102587). Its text is not public: every formula and number here is ours.

    With s_1 >= ... >= s_K the largest probabilities of a side and H its entropy,

        kappa = clip(a * exp(H) + b, 1, K),    m_j = sigmoid((kappa + 1/2 - j) / tau),
        statistics m_1 s_1, ..., m_K s_K, sum m_j s_j / sum m_j,

    a and b learned, 1 at the start; exp(H) is the number of bins that the side effectively uses.
    Other selectors, for ablation: kappa "fixed" or "learned", the same everywhere; a "bank" of the
    means of the 1, 2, 4 and 8 largest, the variance of the bins and the entropy, weighted by a
    softmax gate that is linear in them and uniform at the start.

    With a fixed kappa of 4, topk 4 and tau towards 0 it is DGQP, whose weights it then loads.
    """

    def __init__(
        self,
        reg_max: int,
        selector: str = "entropy",
        topk: int = 8,
        kappa: float = 4.0,
        tau: float = 0.25,
        channels: int = 64,
    ) -> None:
        """Build the two 1x1 convolutions and what selects.

        Args:
            reg_max: last bin of the distributions.
            selector: one of `SELECTORS`.
            topk: K, from 2 to reg_max + 1; at least 8 for "bank".
            kappa: see MODEL.GFL.SDGQP.
            tau: softness, > 0.
            channels: hidden width.

        Raises:
            ValueError: an option out of range.
        """
        check_choice(selector, SELECTORS, "MODEL.GFL.SDGQP.SELECTOR")
        _check(reg_max, selector, topk, kappa, tau)
        width = len(_BANK) + 2 if selector == "bank" else topk + 1
        super().__init__(*_convolutions(4 * width, channels))
        self.selector, self.topk, self.kappa, self.tau = selector, topk, kappa, tau
        if selector == "entropy":
            self.slope, self.offset = (nn.Parameter(torch.tensor(1.0)) for _ in range(2))
        if selector == "learned":
            self.offset = nn.Parameter(torch.tensor(float(kappa)))
        if selector == "bank":
            self.gate = nn.Linear(width, width)
            nn.init.zeros_(self.gate.weight)
            nn.init.zeros_(self.gate.bias)

    def statistics(self, distributions: Tensor) -> Tensor:
        """Statistics (N, 4 * D, H, W), side by side, of (N, 4 * (reg_max + 1), H, W).

        D is topk + 1, or 6 for the bank.
        """
        log_p = at_least_float(distributions).unflatten(1, (4, -1)).log_softmax(2)
        top = log_p.topk(self.topk, dim=2).values.exp()
        if self.selector == "bank":
            return self._bank(log_p, top).flatten(1, 2)
        rank = torch.arange(1, self.topk + 1, device=top.device, dtype=top.dtype)
        kappa = self._kappa(log_p)
        mask = ((kappa + 0.5 - rank.view(1, 1, -1, 1, 1)) / self.tau).sigmoid()
        chosen = mask * top
        mean = chosen.sum(2, keepdim=True) / mask.sum(2, keepdim=True)
        return torch.cat([chosen, mean], 2).flatten(1, 2)

    def _kappa(self, log_p: Tensor) -> Tensor:
        """(N, 4, 1, H, W), or a scalar."""
        if self.selector == "entropy":
            support = (-(log_p.exp() * log_p).sum(2, keepdim=True)).exp()
            return (self.slope * support + self.offset).clamp(1, self.topk)
        if self.selector == "learned":
            return self.offset.clamp(1, self.topk)
        return log_p.new_tensor(self.kappa)

    def _bank(self, log_p: Tensor, top: Tensor) -> Tensor:
        p = log_p.exp()
        bins = torch.arange(p.shape[2], device=p.device, dtype=p.dtype).view(-1, 1, 1)
        mean = (p * bins).sum(2, keepdim=True)
        variance = (p * (bins - mean).square()).sum(2, keepdim=True)
        entropy = -(p * log_p).sum(2, keepdim=True)
        means = [top[:, :, :k].mean(2, keepdim=True) for k in _BANK]
        bank = torch.cat([*means, variance, entropy], 2)
        gate = self.gate(bank.movedim(2, -1)).softmax(-1).movedim(-1, 2)
        return bank * gate * bank.shape[2]

    def forward(self, distributions: Tensor) -> Tensor:
        """Quality logit (N, 1, H, W) of box distributions (N, 4 * (reg_max + 1), H, W)."""
        hidden = self[1](self[0](self.statistics(distributions)))
        return self[2](hidden)


def _check(reg_max: int, selector: str, topk: int, kappa: float, tau: float) -> None:
    if not 2 <= topk <= reg_max + 1:
        raise ValueError(
            f"MODEL.GFL.SDGQP.TOPK must be from 2 to MODEL.GFL.REG_MAX + 1 = {reg_max + 1}, "
            f"not {topk}."
        )
    if selector == "bank" and topk < _BANK[-1]:
        raise ValueError(
            f"MODEL.GFL.SDGQP.SELECTOR bank needs TOPK of at least {_BANK[-1]}, not {topk}."
        )
    if selector in ("learned", "fixed") and not 1 <= kappa <= topk:
        raise ValueError(f"MODEL.GFL.SDGQP.KAPPA must be from 1 to TOPK = {topk}, not {kappa}.")
    if not tau > 0:
        raise ValueError(f"MODEL.GFL.SDGQP.TAU must be above 0, not {tau}.")
