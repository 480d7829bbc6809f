"""What only a GPU can show: AMP in fp16 with NCCL, and a step without host synchronisation."""

import pytest
import torch

from d2kd.engine.command_line import argument_parser
from d2kd.engine.launch import launch
from d2kd.engine.main import main
from d2kd.testing import make_batch
from tests.helpers import pair, write_config

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]


def test_amp_step_on_the_gpu():
    _, model = pair()
    model.cuda()
    assert next(model.teachers[0].detector.parameters()).is_cuda
    scaler = torch.amp.GradScaler("cuda", init_scale=128.0)
    with torch.autocast("cuda", dtype=torch.float16):
        losses = model(make_batch())
    scaler.scale(sum(losses.values())).backward()
    assert losses["loss_PKD_feat"].dtype == losses["loss_BCKD_cls"].dtype == torch.float32
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_amp_training_with_nccl(tmp_path, squares):
    """One rank per GPU through d2kd's launch, fp16 AMP."""
    path = write_config(tmp_path, squares, SOLVER__AMP__ENABLED=True, MODEL__DEVICE="cuda")
    gpus = torch.cuda.device_count()
    arguments = ["--config-file", str(path), "--num-gpus", str(gpus), "SOLVER.IMS_PER_BATCH"]
    launch(main, argument_parser().parse_args([*arguments, str(4 * gpus)]))
    assert (tmp_path / "out" / "model_final.pth").exists()
