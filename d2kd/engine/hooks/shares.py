"""Weights of methods from the shares of the gradient that they are to have."""

from typing import Dict, Mapping

_MOST = 10.0  # factor and divisor of a weight at a time, where a band holds the shares


def balanced_weights(ratios: Mapping[str, float], shares: Mapping[str, float]) -> Dict[str, float]:
    """Weights that give each head its share of the sum of gradient norms, the task the rest.

    Args:
        ratios: head -> its gradient norm at weight 1, over the task's.
        shares: head -> share, 0 to 1; their sum is below 1.
    """
    rest = 1 - sum(shares.values())
    return {head: shares[head] / rest / ratio for head, ratio in ratios.items()}


def held_weights(
    weights: Mapping[str, float],
    ratios: Mapping[str, float],
    shares: Mapping[str, float],
    band: float,
) -> Dict[str, float]:
    """The same, but with the weights that there are while they keep all shares in their bands.

    Where one has left its band all weights are set, each to at most 10 times and at least a tenth
    of what it was. RT-DETRv4 (arXiv 2510.25257) aims at the far edge of the band instead, by the
    odds of a share which is not proportional to the weight.

    Args:
        weights: head -> weight above 0.
        ratios, shares: see `balanced_weights`.
        band: half of its width, as a part of the share; 0 for neither band nor limits.
    """
    wanted = balanced_weights(ratios, shares)
    if band <= 0:
        return wanted
    norms = {head: weights[head] * ratio for head, ratio in ratios.items()}
    whole = 1 + sum(norms.values())
    if all(abs(norm / whole - shares[head]) <= band * shares[head] for head, norm in norms.items()):
        return {head: weights[head] for head in ratios}
    return {
        head: min(max(weight, weights[head] / _MOST), weights[head] * _MOST)
        for head, weight in wanted.items()
    }
