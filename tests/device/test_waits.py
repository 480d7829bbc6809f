"""How often the host waits in a step of a whole training: what the loader, hooks and metrics add.

The model's own waits are those of `test_steps`. To them come two: the norm of the gradients, by
which the guard decides before the optimizer's step, and the losses, all of them in one copy.
"""

from collections import Counter

import pytest
import torch

from d2kd import DistillationTrainer
from d2kd.data import register_custom_datasets
from tests.device.simulated import missing, set_up, simulated, waits
from tests.device.test_steps import STEPS, anchors
from tests.engine.hooks.test_exact_resume import config
from tests.ranks import in_process

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())
FEW = {"MODEL__DEVICE": "sim:0", "SOLVER__MAX_ITER": 4, "SOLVER__CHECKPOINT_PERIOD": 4,
       "DISTILL__GRADIENT_PERIOD": 3}  # fmt: skip
MANY = {
    **FEW, "SOLVER__EMA__DECAY": 0.5, "SOLVER__OPTIMIZER": "AdamW", "SOLVER__BASE_LR": 1e-4,
    "SOLVER__CLIP_GRADIENTS__ENABLED": True, "SOLVER__GUARD__SPIKE": 1e6,
    "SOLVER__CLIP_GRADIENTS__CLIP_TYPE": "full_model",
}  # fmt: skip
NORM = "_local_scalar_dense: return torch.stack(torch._foreach_norm(grads)).norm().item()"
LOSSES = (
    "copy to the host: together = torch.stack([x.detach().double() for x in losses.values()]).cpu()"
)


def count(folder, squares, keys):
    """Waits of each step with its hooks, by line."""
    torch.set_num_threads(1)
    set_up()
    found = []
    with torch.jit.optimized_execution(False), simulated():
        cfg = config("GFL, LD and StructuredKD", folder, squares, "out", **keys)
        cfg.DISTILL.HEADS = ("StructuredKD",)
        register_custom_datasets(cfg)
        trainer = DistillationTrainer(cfg)
        trainer.resume_or_load(resume=False)
        before, after = trainer.before_step, trainer.after_step

        def before_step():
            waits.clear()
            before()

        def after_step():
            after()
            found.append(Counter(waits))

        trainer.before_step, trainer.after_step = before_step, after_step
        trainer.train()
    return found


@pytest.mark.parametrize("keys", [FEW, MANY], ids=["few", "many"])
def test_a_step_that_logs_nothing(tmp_path, squares, keys):
    """Neither the first, which measures gradients, nor the last, which writes a checkpoint."""
    for found in in_process(count, tmp_path, squares, keys)[1:3]:
        assert found.pop(NORM, 0) == found.pop(LOSSES, 0) == 1, found
        assert anchors(found) == 10 and found.total() == STEPS["GFL"], found
