"""Dividing images in two, so that both parts have objects of all classes."""

import random
from collections import Counter, defaultdict
from collections.abc import Sequence


def hold_back(
    classes: Sequence[frozenset[str]], groups: Sequence[Sequence[int]], share: float, seed: int
) -> set[int]:
    """Choose the places of images that are held back, the same ones for a seed.

    The rarest class is divided first, then the next one among the images that are left (iterative
    stratification, Sechidis et al., 2011). A class whose images are in two groups or more is in
    both parts, unless a rarer one leaves no choice.

    Args:
        classes: of the objects in each image, maybe none.
        groups: places of images that stay together; each place is in one group.
        share: of the images of each class that is held back, 0 to 1.
        seed: of the choice.
    """
    order = sorted(map(list, groups))
    random.Random(seed).shuffle(order)
    counts = [Counter(x for place in group for x in classes[place] or {""}) for group in order]
    groups_of = defaultdict(list)
    for index, count in enumerate(counts):
        for name in count:
            groups_of[name].append(index)
    totals: Counter[str] = sum(counts, Counter())
    held: dict[int, bool] = {}
    for name in sorted(totals, key=lambda x: (totals[x], x)):
        _divide(name, groups_of[name], counts, max(1, round(share * totals[name])), held)
    return {place for index, group in enumerate(order) if held[index] for place in group}


def _divide(
    name: str, own: list[int], counts: list[Counter[str]], wanted: int, held: dict[int, bool]
) -> None:
    """Decide for the groups of a class of which nothing is decided, small ones first."""
    have = sum(counts[i][name] for i in own if held.get(i))
    kept = any(i in held and not held[i] for i in own)
    left = sorted((i for i in own if i not in held), key=lambda i: counts[i][name])
    for position, index in enumerate(left):
        count = counts[index][name]
        nearer = abs(have + count - wanted) < wanted - have
        last = position == len(left) - 1
        held[index] = (nearer or not have) and (kept or not last)
        have += count * held[index]
        kept |= not held[index]
