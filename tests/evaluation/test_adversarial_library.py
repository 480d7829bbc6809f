"""Our attacks against those of ART (adversarial-robustness-toolbox), image by image."""

import numpy as np
import pytest
import torch
from torch import nn

from d2kd.evaluation.adversarial import Attack, _loss, _training_losses, fgsm, perturb
from tests.evaluation.test_adversarial import ALL_BOXES, EPSILON, FAMILIES, example, sensitive

evasion = pytest.importorskip("art.attacks.evasion", reason="needs adversarial-robustness-toolbox")
STEPS, STEP_SIZE = 10, 2.0


class Torchvision(nn.Module):
    """A detector as ART wants it: images in 0..1, in a batch; the losses of `labelled` for them."""

    def __init__(self, model, labelled):
        super().__init__()
        self.model, self.labelled = model, labelled

    def train(self, mode=True):
        return self  # ART would switch normalization to training

    def forward(self, images, targets):
        with _training_losses(self.model):
            return {"loss": _loss(self.model, {**self.labelled, "image": images[0] * 255})}


@pytest.mark.parametrize("meta", FAMILIES)
def test_the_same_images(meta):
    from art.estimators.object_detection import PyTorchObjectDetector

    model, clean = sensitive(meta, **ALL_BOXES), example()
    estimator = PyTorchObjectDetector(
        Torchvision(model, clean), input_shape=tuple(clean["image"].shape), clip_values=(0, 255),
        attack_losses=("loss",), device_type="cpu",
    )  # fmt: skip
    image = clean["image"].float().numpy()[None]
    target = [{"boxes": clean["instances"].gt_boxes.tensor.numpy(),
               "labels": clean["instances"].gt_classes.numpy(),
               "scores": np.ones(len(clean["instances"]))}]  # fmt: skip
    common = {"norm": np.inf, "eps": EPSILON, "batch_size": 1}
    one = evasion.FastGradientMethod(estimator, **common)
    many = evasion.ProjectedGradientDescent(
        estimator, eps_step=STEP_SIZE, max_iter=STEPS, num_random_init=0, verbose=False, **common
    )
    ours = [(one, fgsm(EPSILON)), (many, Attack(EPSILON, STEPS, STEP_SIZE, random_start=False))]
    for theirs, attack in ours:
        expected = torch.from_numpy(theirs.generate(x=image, y=target)[0])
        found = perturb(model, clean, attack)["image"]
        assert (found - clean["image"]).abs().max() > 0.5 * EPSILON
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)
