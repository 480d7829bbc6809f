"""Adversarial images within an L-infinity ball, on a detector's own training loss.

One step is FGSM (Goodfellow et al., arXiv 1412.6572); several, from a random start, are the
projected gradient attack of Madry et al. (arXiv 1706.06083). White box, untargeted: the sum of the
detector's losses on the true objects is raised. The library that fits detectors, ART, takes
torchvision's formats and a detector whose training mode changes nothing; what that asks for is most
of this file, and the steps themselves are few lines, so they are here. A test compares them with
ART's, image by image.
"""

from contextlib import contextmanager
from dataclasses import dataclass
from typing import Dict, Iterator, List

import torch
from detectron2.utils.events import EventStorage
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..detectors.loss_normalizer import moving_averages, set_moving_averages
from ..losses.reduce import total


@dataclass(frozen=True)
class Attack:
    """How far and how often images are moved.

    Args:
        epsilon: largest change of a pixel, grey levels (0 to 255).
        steps: gradient steps.
        step_size: change of a pixel in a step, grey levels.
        random_start: start from a random point of the ball, the same for equal image sizes.
    """

    epsilon: float
    steps: int = 1
    step_size: float = 0.0
    random_start: bool = False


def fgsm(epsilon: float) -> Attack:
    """One step to the edge of the ball; epsilon in grey levels."""
    return Attack(epsilon, 1, epsilon)


def projected_gradient(epsilon: float, steps: int = 10) -> Attack:
    """Steps of 2.5 * epsilon / steps from a random start, projected onto the ball."""
    return Attack(epsilon, steps, 2.5 * epsilon / steps, True)


class AttackedDetector(nn.Module):
    """A detector that sees adversarial images; for `inference_on_dataset`.

    Inputs need "instances", see `d2kd.data.labelled_test_data`. Images are moved after resizing and
    are not rounded to whole grey levels. Equal images give equal results in any order.
    """

    def __init__(self, detector: nn.Module, attack: Attack) -> None:
        """Wrap a Detectron2 detector that takes batched inputs and, in training, returns losses."""
        super().__init__()
        self.detector, self.attack = detector, attack
        self.training = detector.training

    def forward(self, batched_inputs: List[dict]) -> List[dict]:
        """Detections on the adversarial images of a batch."""
        return self.detector([perturb(self.detector, x, self.attack) for x in batched_inputs])


def perturb(detector: nn.Module, example: dict, attack: Attack) -> dict:
    """A copy of a labelled input whose image, (3, H, W) in 0..255, raises the detector's loss.

    The detector is left as it was: modes, statistics, ranges of INT8, loss normalizers, gradients
    of parameters.

    Raises:
        ValueError: the input has no "instances".
    """
    if "instances" not in example:
        raise ValueError("an attack needs inputs with instances: use d2kd.data.labelled_test_data.")
    clean = example["image"].float()
    low, high = (clean - attack.epsilon).clamp(min=0), (clean + attack.epsilon).clamp(max=255)
    image = clean
    with _training_losses(detector):
        if attack.random_start:
            torch.manual_seed(0)
            noise = torch.rand(clean.shape).to(clean.device) * 2 - 1
            image = torch.clamp(clean + attack.epsilon * noise, low, high)
        for _ in range(attack.steps):
            gradient = _gradient(detector, {**example, "image": image})
            image = torch.clamp(image + attack.step_size * gradient.sign(), low, high)
    return {**example, "image": image}


def task_loss(detector: nn.Module, example: dict) -> float:
    """Sum of the detector's losses on a labelled input, as the attack sees it."""
    with _training_losses(detector):
        return float(_loss(detector, example))


def _gradient(detector: nn.Module, example: dict) -> Tensor:
    image = example["image"].detach().clone().requires_grad_()
    return torch.autograd.grad(_loss(detector, {**example, "image": image}), image)[0]


def _loss(detector: nn.Module, example: dict) -> Tensor:
    torch.manual_seed(0)  # two-stage detectors sample boxes
    averages = moving_averages(detector)
    try:
        losses: Dict[str, Tensor] = detector([example])
    finally:
        set_moving_averages(detector, averages)  # so that each step asks the same function
    return total(losses.values())


@contextmanager
def _training_losses(detector: nn.Module) -> Iterator[None]:
    """Training mode of what returns losses; modes are given back.

    Layers have no children: normalization, dropout and ranges of INT8 stay as in testing.
    """
    modes = {module: module.training for module in detector.modules()}
    devices = range(torch.cuda.device_count())
    try:
        for module in modes:  # batch norm has children where it rounds
            module.training = _has_children(module) and not isinstance(module, _BatchNorm)
        with torch.enable_grad(), torch.random.fork_rng(devices), EventStorage(1):
            yield
    finally:
        for module, training in modes.items():
            module.training = training


def _has_children(module: nn.Module) -> bool:
    return next(module.children(), None) is not None
