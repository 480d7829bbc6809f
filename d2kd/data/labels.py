"""Labels of training batches, which a loader of the user's own may give unchecked."""

from typing import Any

import torch

from ..errors import ConfigError


def check_labels(batch: list[dict[str, Any]], classes: int, key: str) -> None:
    """Check that the classes of all objects are some of the model's.

    Args:
        batch: as a mapper gives it; "gt_classes" of its "instances" on another device are not
            looked at, since that would wait for it.
        classes: K; labels are 0 to K - 1.
        key: the config key of K.

    Raises:
        ConfigError: a label is another number; the message names its image.
    """
    targets = [x["instances"] for x in batch if "instances" in x]
    labels = [x.gt_classes for x in targets if x.has("gt_classes") and x.gt_classes.is_cpu]
    found = torch.cat(labels) if labels else torch.empty(0)
    if not len(found):
        return
    low, high = found.aminmax()
    if low >= 0 and high < classes:
        return
    wrong = high if high >= classes else low
    images = (x for x in batch if "instances" in x and x["instances"].has("gt_classes"))
    owner = next(x for x in images if (x["instances"].gt_classes == wrong).any())
    mend = f", or set {key} to that of the data" if key.endswith("NUM_CLASSES") else ""
    raise ConfigError(
        f"{owner.get('file_name', 'an image')} has an object of class {int(wrong)}, but {key} "
        f"has {classes}: give objects classes 0 to {classes - 1}{mend}."
    )
