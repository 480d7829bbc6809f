"""VFM: values by hand, maps of other strides, batch padding, two ranks, a ViT as teacher."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close

from d2kd import Teacher
from d2kd.heads import VFM
from d2kd.heads.vfm import at_stride
from d2kd.losses import cosine_distance, mean_over_ranks
from d2kd.testing import make_batch
from tests.engine.test_ddp import gradients, worker
from tests.helpers import detector, distill, feature_spec, output_of, pair
from tests.losses.test_attention import near
from tests.ranks import two_ranks

S = torch.tensor([[[[3.0, 1, 0]], [[4, 0, 2]]]], dtype=torch.float64)
T = torch.tensor([[[[0.0, 1, 1]], [[1, 1, 0]], [[1, 0, -1]]]], dtype=torch.float64)
WEIGHT, BIAS = [[1.0, 0], [0, 1], [1, 1]], [0.0, 0, 0.5]
SPECS = feature_spec({32: 2}), feature_spec({32: 3})


def seen(maps, sizes):
    output = output_of(maps)
    output.images = SimpleNamespace(image_sizes=sizes, device=torch.device("cpu"))
    return output


def toy(teacher=T, factor=1.0, size=(32, 96), **options):
    """Loss, gradient by the student's map, and those by weight and bias of the projector."""
    head = VFM(*SPECS, **options).double()
    project = head.project["32"]
    values = torch.tensor(WEIGHT), torch.tensor(BIAS)
    for parameter, value in zip((project.weight, project.bias), values, strict=True):
        parameter.data = factor * value.double().view_as(parameter)
    s = S.clone().requires_grad_()
    loss = head(seen({32: s}, [size]), output_of({32: teacher}))["feat"]
    loss.backward()
    return loss, s.grad, project.weight.grad, project.bias.grad


def test_cosine():
    """P s = (3 1 0)(4 0 2)(7.5 1.5 2.5), the cosines are 0.902134, 0.392232 and -0.552158."""
    loss, s, weight, bias = toy()
    near(loss, 0.752597)
    near(s, [0.012712, -0.030172, -0.044891, -0.009735, -0.070401, -0.007183])
    near(weight, [-0.057206, -0.102829, -0.164778, -0.117204, 0.065171, 0.063897])
    near(bias, [-0.153033, -0.178001, 0.090683])


def test_cells_of_batch_padding_teach_nothing():
    loss, s, *_ = toy(size=(32, 64))
    near(loss, 0.352817)
    near(s, [0.019069, -0.045258, 0, -0.014603, -0.105601, 0])
    assert_close(toy(size=(1, 33))[0], loss)  # of the second cell one column is on the image


def test_mixed():
    loss, s, *_ = toy(loss="mixed")
    near(loss, 0.871782)
    near(s, [0.033663, -0.016043, -0.040402, 0.013460, -0.063361, 0.015758])


def test_lengths_do_not_matter():
    loss, s, weight, bias = toy()
    assert_close(toy(teacher=7 * T), (loss, s, weight, bias))
    assert_close(toy(factor=2.0), (loss, s, weight / 2, bias / 2))


def test_equal_directions_give_zero_and_opposite_ones_two():
    x = torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(0)).double()
    assert_close(cosine_distance(3 * x, x), torch.zeros(2, 3, 4).double())
    assert_close(cosine_distance(-x, x), torch.full((2, 3, 4), 2.0).double())
    s = torch.zeros(1, 2, 1, 1, requires_grad=True)
    cosine_distance(s, torch.zeros(1, 2, 1, 1)).sum().backward()
    assert bool(s.grad.isfinite().all())
    s, t = x[:1, :3, :2, :2].clone().requires_grad_(), x[1:, :3, :2, :2]
    assert torch.autograd.gradcheck(lambda y: cosine_distance(y, t), (s,))


def test_half_precision():
    """300 squared is more than float16 holds."""
    x = torch.full((1, 8, 2, 2), 300.0)
    with torch.autocast("cpu", torch.bfloat16):
        found = cosine_distance(x.half(), -x.half())
    assert found.dtype == torch.float32
    assert_close(found, torch.full((1, 2, 2), 2.0))


def test_maps_of_other_strides():
    """Averages of blocks, of which the last may be smaller, and values between centers."""
    x = torch.arange(24.0).view(1, 3, 2, 4)
    near(at_stride(x, 16, 32, (1, 2)), [2.5, 4.5, 10.5, 12.5, 18.5, 20.5])
    near(at_stride(x[:, :1, :, :3], 16, 32, (1, 2)), [2.5, 4])
    near(at_stride(x, 16, 128, (1, 1)), [3.5, 11.5, 19.5])
    near(at_stride(torch.tensor([[[[0.0, 4]]]]), 32, 16, (2, 4)), [0, 1, 3, 4] * 2)
    near(at_stride(torch.full((1, 1, 1, 1), 3.0), 32, 8, (3, 2)), [3] * 6)
    assert at_stride(x, 16, 16, (2, 4)).data_ptr() == x.data_ptr()


def test_values_between_centers_do_not_depend_on_the_padding():
    """64 px cells of a map that is 96 px wide: 2 columns, of which a level of 32 px has 3."""
    columns = (torch.arange(2.0) + 0.5) * 64
    found = at_stride(columns.view(1, 1, 1, 2), 64, 32, (1, 3))
    near(found, [32, 48, 80])  # the first center, 16, lies before the first of the teacher


@pytest.mark.parametrize(("student", "teacher", "expected"), [
    ((8, 16, 32, 64, 128), (16,), ([32], 16)), ((4, 8, 16), (8, 16, 32, 64), ([16], 32)),
    ((64, 128), (64,), ([64], 64)), ((4, 8, 16, 32, 64), (4, 8, 16, 32), ([32], 32)),
])  # fmt: skip
def test_levels(student, teacher, expected):
    head = VFM(*(feature_spec(dict.fromkeys(x, 4)) for x in (student, teacher)))
    assert (head.strides, head.teacher_stride) == expected


@pytest.mark.parametrize("projector", ["linear", "mlp"])
@pytest.mark.parametrize("images", [1, 2])
def test_several_strides(projector, images):
    """8, 16, 64 and 128 px of 96 x 128 px from 16 px: a map of one cell, which is 8 x 8 blocks."""
    sides = {8: (12, 16), 16: (6, 8), 64: (2, 2), 128: (1, 1)}
    specs = feature_spec(dict.fromkeys((8, 16, 32, 64, 128), 4)), feature_spec({16: 6})
    head = VFM(*specs, strides=(128, 8, 16, 64, 8), projector=projector)
    assert head.strides == [8, 16, 64, 128] and list(head.project) == ["8", "16", "64", "128"]
    maps = {k: torch.randn(images, 4, *x, requires_grad=True) for k, x in sides.items()}
    student = seen(maps, [(96, 128), (80, 64)][:images])
    teacher = output_of({16: torch.randn(images, 6, 6, 8, requires_grad=True)})
    head(student, teacher)["feat"].backward()
    assert all(x.grad.isfinite().all() and x.grad.any() for x in maps.values())
    assert teacher.features[16].grad is None
    assert all(p.grad is not None and p.grad.any() for p in head.parameters())
    drawn = head.maps(student, teacher)["cosine distance"]
    assert {k: x.shape for k, x in drawn.items()} == {k: (images, *x) for k, x in sides.items()}
    assert all(x.min() >= 0 and x.max() > 0 and not x.requires_grad for x in drawn.values())


@pytest.mark.parametrize(("option", "message"), [
    ({"strides": (32, 64)}, r"DISTILL.VFM.STRIDES is \(32, 64\): the student X has strides \[8, "
     r"24, 32\] px; choose from \[8, 32\], multiples or divisors of the teacher's 16\."),
    ({"strides": (24,)}, r"choose from \[8, 32\]"),
    ({"strides": ("x",)}, r"DISTILL.VFM.STRIDES is \('x',\)"),
    ({"strides": ((8,),)}, r"DISTILL.VFM.STRIDES is \(\(8,\),\)"),
    ({"projector": "conv"}, "DISTILL.VFM.PROJECTOR: unknown 'conv'.*mlp"),
    ({"loss": "l2"}, "DISTILL.VFM.LOSS: unknown 'l2'.*mixed"),
])  # fmt: skip
def test_errors(option, message):
    with pytest.raises(ValueError, match=message) as found:
        VFM(feature_spec({8: 2, 24: 2, 32: 2}), feature_spec({16: 3}), **option)
    assert "\n" not in str(found.value)


BATCH = [*make_batch(((96, 128), (33, 40)), seed=0), *make_batch(((96, 128), (96, 70)), seed=1)]


def term_and_gradients(batch, ddp):
    options = {"VFM": {"STRIDES": (8, 32)}}
    _, model = pair("RetinaNet", ("VFM",), options=options)
    wrapped = DistributedDataParallel(model, broadcast_buffers=False) if ddp else model
    losses = wrapped(batch)
    zero = sum(losses.values()) * 0  # the supervised losses keep every parameter in the graph
    (losses["loss_VFM_feat"] + zero).backward()
    return mean_over_ranks(losses["loss_VFM_feat"].detach()), gradients(model)


def compare_with_one_process(rank, folder, _):
    term, found = term_and_gradients(BATCH[2 * rank : 2 * rank + 2], ddp=True)
    expected, wanted = torch.load(f"{folder}/expected.pth")
    assert_close(term, expected, atol=1e-6, rtol=1e-5)
    assert_close(found, wanted, atol=1e-6, rtol=1e-4)


def test_two_ranks_give_the_term_and_gradients_of_one_process(tmp_path):
    """Their images have 12 + 4 and 12 + 9 cells of 32 px."""
    torch.save(term_and_gradients(BATCH, ddp=False), tmp_path / "expected.pth")
    two_ranks(worker, compare_with_one_process, str(tmp_path), "RetinaNet")


def test_a_detector_teaches_another_family():
    student = detector("GeneralizedRCNN")
    model = distill(student, [detector("FCOS", 12, seed=1)], ("VFM",)).train()
    losses = model(make_batch())
    assert 0 < losses["loss_VFM_feat"].item() < 2 and model.heads["VFM"].strides == [32]
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_a_vision_transformer_teaches():
    pytest.importorskip("timm")
    from tests.backbones.test_timm_extractor import built

    teacher = Teacher(built("vit_tiny_patch16_224@32"), input_format="RGB")
    model = distill(detector("GFL"), [teacher], ("VFM",)).train()
    assert model.heads["VFM"].teacher_stride == 32 and VFM.default_weight == 5
    losses = model(make_batch())
    losses["loss_VFM_feat"].backward()
    assert 0 < losses["loss_VFM_feat"].item() < 2
    assert all(p.grad.any() for p in model.heads.parameters())
