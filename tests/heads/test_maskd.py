"""MasKD's head: hand values, tokens from a file, warm-up, what is refused."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close

from d2kd.adapters import build_adapter
from d2kd.checkpoint.values import digest
from d2kd.heads import MasKD
from d2kd.heads.receptive_tokens import LevelTokens, Tokens
from d2kd.heads.tokens_file import TokensFile, read_tokens, write_tokens
from d2kd.losses.maskd import token_masks
from d2kd.testing import make_batch
from tests.helpers import detector, distill, feature_spec, make_identity, output_of
from tests.losses.test_maskd import BIAS, KERNEL, TOKENS, X, Y, near, random

SPEC = feature_spec({8: 2}, num_anchors=1)
TOY = TokensFile({8: Tokens(TOKENS.float(), KERNEL.float(), BIAS.float())}, "toy", "0")


def random_tokens(teacher, folder, seed=0, number=4):
    """A file of tokens of a detector, whose masks are far from one half."""
    adapter = build_adapter(teacher)
    torch.manual_seed(seed)
    levels = {s: LevelTokens(x.channels, number) for s, x in adapter.spec().features.items()}
    for level in levels.values():
        torch.nn.init.normal_(level.tokens)
    learnt = {s: level.learnt() for s, level in levels.items()}
    write_tokens(folder / "tokens.safetensors", TokensFile(learnt, "T", digest(adapter.backbone)))
    return str(folder / "tokens.safetensors")


def toy(tmp_path, **options):
    write_tokens(tmp_path / "toy", TOY)
    head = MasKD(SPEC, SPEC, tokens=str(tmp_path / "toy"), preset="two_stage", **options)
    head = make_identity(head.double())
    with torch.no_grad():  # as exact as the hand values
        for name, x in zip(Tokens._fields, (TOKENS, KERNEL, BIAS), strict=True):
            getattr(head.tokens["8"], name).copy_(x)
    return head


def loss_and_gradient(head, student=Y):
    y = student.clone().requires_grad_()
    loss = head(output_of({8: y}), output_of({8: X}))["feat"]
    return loss, torch.autograd.grad(loss, y)[0]


def test_hand_values_before_and_after_the_warmup(tmp_path):
    head = toy(tmp_path, warmup=2)
    for step in range(4):
        loss, gradient = loss_and_gradient(head)
        expected = [0.698015, -0.175548, 0.476210, -0.046258] if step < 2 else \
            [0.424449, -0.195033, 0.195033, -0.034384]  # fmt: skip
        near(loss, expected[0])
        near(gradient, [expected[1:], [-x for x in expected[1:]]])
    assert head.steps.item() == 4
    near(loss_and_gradient(toy(tmp_path, warmup=0))[0], 0.424449)


def test_the_count_of_steps_is_saved_and_evaluation_does_not_count(tmp_path):
    head, again = toy(tmp_path, warmup=2), toy(tmp_path, warmup=2)
    loss_and_gradient(head)
    loss_and_gradient(head.eval())
    again.load_state_dict(head.state_dict())
    assert again.steps.item() == 1
    near(loss_and_gradient(again)[0], 0.698015)
    near(loss_and_gradient(again)[0], 0.424449)


def test_masks_of_one_weight(tmp_path):
    """The mean of the losses under each mask alone."""
    masks, error = token_masks(X, TOKENS), (Y - X).square().mean(1)
    each = (masks.square() * error[:, None]).sum((2, 3)) / masks.sum((2, 3))
    loss, _ = loss_and_gradient(toy(tmp_path, weight_mask=False))
    near(loss, each.mean().item())


def test_the_loss_is_the_mean_over_images(tmp_path):
    head, two = toy(tmp_path), toy(tmp_path)
    x, y = random(2, 2, 3, 4), random(2, 2, 3, 4, seed=1)
    both = two(output_of({8: y}), output_of({8: x}))["feat"]
    each = [
        head(output_of({8: y[i : i + 1]}), output_of({8: x[i : i + 1]}))["feat"] for i in (0, 1)
    ]
    assert_close(both, sum(each) / 2)
    assert head(output_of({8: x}), output_of({8: x}))["feat"].item() == 0


def test_saturated_masks_are_finite(tmp_path):
    head = toy(tmp_path, warmup=0)
    loss, gradient = loss_and_gradient(head, -1e4 * X)
    assert loss.isfinite() and gradient.isfinite().all()
    loss, gradient = loss_and_gradient(head, torch.full_like(X, -1e4))
    assert loss.isfinite() and gradient.isfinite().all()


@pytest.mark.parametrize(("student", "weight", "warmup"), [
    (feature_spec({8: 2}), 1.0, 7330),
    (feature_spec({4: 2}, num_anchors=1), 1.0, 7330),
    (feature_spec({8: 2}, num_anchors=1, box_coding="anchor_delta"), 7.0, 7000),
    (feature_spec({8: 2}, num_anchors=1, box_coding="distance"), 10.0, 5000),
    (feature_spec({8: 2}, num_anchors=1, box_coding="points"), 10.0, 5000),
])  # fmt: skip
def test_presets(student, weight, warmup):
    head = MasKD(student, student)
    assert (head.weight, head.warmup, MasKD.default_weight) == (weight, warmup, 1.0)
    assert MasKD(student, student, preset="one_stage", warmup=3).warmup == 3


@pytest.mark.parametrize(
    "meta",
    ["RetinaNet", "FCOS", "ATSS", "AutoAssign", "DDOD", "GFL", "RepPoints", "GeneralizedRCNN"],
)
def test_a_step_of_every_family(meta, tmp_path):
    """Every convolution learns, no token does, before and after the warm-up."""
    student, teacher = detector(meta), detector(meta, 12, seed=1)
    options = {"MasKD": {"TOKENS": random_tokens(teacher, tmp_path), "WARMUP": 1}}
    model = distill(student, [teacher], ("MasKD",), options=options).train()
    model.check_heads()
    head, losses = model.heads["MasKD"], []
    before = {k: x.clone() for k, x in head.state_dict().items() if "tokens" in k}
    for _ in range(2):
        torch.manual_seed(0)
        loss = model(make_batch())["loss_MasKD_feat"]
        loss.backward()
        losses.append(loss.item())
    assert losses[0] != losses[1] and all(math.isfinite(x) and x > 0 for x in losses)
    names = {name for name, _ in head.named_parameters()}
    assert names == {f"project.{s}.{x}" for s in head.strides for x in ("weight", "bias")}
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.parameters())
    assert all(torch.equal(head.state_dict()[k], x) for k, x in before.items())
    assert set(model.state_dict()) == set(student.state_dict())


def test_maps(tmp_path):
    teacher = detector("RetinaNet", 12, seed=1)
    options = {"MasKD": {"TOKENS": random_tokens(teacher, tmp_path)}}
    model = distill(detector(), [teacher], ("MasKD",), options=options).train()
    batch = make_batch()
    student = model.run_student(batch)
    maps = model.heads["MasKD"].maps(student, model.run_teachers(batch, student)[0])
    mask = maps["mask (teacher)"][8]
    assert set(maps) == {"difference", "mask (teacher)"}
    assert mask.shape == student.features[8][:, 0].shape and 0 <= mask.min() < mask.max() <= 1


def test_files_give_back_what_was_written(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    torch.manual_seed(0)
    level = LevelTokens(3, 5)
    write_tokens(tmp_path / "tokens.safetensors", TokensFile({16: level.learnt()}, "T", "d"))
    found = read_tokens(Path("~", tmp_path.name))  # the folder of a run
    assert (found.teacher, found.digest, list(found.levels)) == ("T", "d", [16])
    assert_close(found.levels[16], level.learnt(), rtol=0, atol=0)
    x = torch.randn(2, 3, 5, 6)
    plain = level.mix(level.conv(x).mean((2, 3)))
    tokens = found.levels[16]
    folded = torch.nn.functional.conv2d(x, tokens.kernel, tokens.bias, padding=1).mean((2, 3))
    assert_close(folded, plain, atol=1e-5, rtol=1e-5)


def other_level(tmp_path):
    write_tokens(tmp_path / "x", TokensFile({16: TOY.levels[8]}, "toy", "0"))
    return MasKD(SPEC, SPEC, tokens=str(tmp_path / "x"))


def other_width(tmp_path):
    write_tokens(tmp_path / "x", TOY)
    return MasKD(SPEC, feature_spec({8: 3}), tokens=str(tmp_path / "x"))


def no_tokens(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "x")
    return MasKD(SPEC, SPEC, tokens=str(tmp_path / "x"))


def no_safetensors(tmp_path):
    (tmp_path / "x").write_text("tokens")
    return MasKD(SPEC, SPEC, tokens=str(tmp_path / "x"))


def broken(tmp_path, **parts):
    level = TOY.levels[8]._replace(**parts)
    write_tokens(tmp_path / "x", TokensFile({8: level}, "toy", "0"))
    return MasKD(SPEC, SPEC, tokens=str(tmp_path / "x"))


@pytest.mark.parametrize(("build", "message"), [
    (other_level, r"TOKENS has tokens for channels by stride {16: 2}, but the teacher X has {8"),
    (other_width, r"by stride {8: 2}, but the teacher X has {8: 3}: learn them on this teacher"),
    (no_tokens, "x holds no tokens: learn them on the teacher, with d2kd train TEACHER --tokens"),
    (no_safetensors, "DISTILL.MasKD.TOKENS: .*x is no readable safetensors file"),
    (lambda x: MasKD(SPEC, SPEC, tokens=str(x / "y")), "DISTILL.MasKD.TOKENS: .*y does not exist"),
    (lambda x: broken(x, bias=torch.ones(3)), "its shapes do not belong together"),
    (lambda x: broken(x, bias=torch.tensor([1.0, math.nan])), "x is damaged: tensors with NaN"),
    (lambda x: MasKD(SPEC, SPEC, warmup=-2), "DISTILL.MasKD.WARMUP must be at least 0, not -2"),
    (lambda x: MasKD(SPEC, SPEC, preset="x"), "DISTILL.MasKD.PRESET: unknown 'x'"),
])  # fmt: skip
def test_refused(build, message, tmp_path):
    with pytest.raises(ValueError, match=message) as error:
        build(tmp_path)
    assert "\n" not in str(error.value)


def test_another_teacher_and_none(tmp_path):
    """Of the teacher's weights those of its backbone count, which the tokens look at."""
    teacher = detector("RetinaNet", 12, seed=1)
    options = {"MasKD": {"TOKENS": random_tokens(teacher, tmp_path)}}
    with torch.no_grad():
        teacher.head.cls_score.bias.add_(1)
    distill(detector(), [teacher], ("MasKD",), options=options).check_heads()
    other = detector("RetinaNet", 12, seed=2)
    with pytest.raises(ValueError, match="was learnt on T, whose backbone has other weights"):
        distill(detector(), [other], ("MasKD",), options=options).check_heads()
    with pytest.raises(
        ValueError, match="DISTILL.MasKD.TOKENS is empty: learn them on the teacher"
    ):
        distill(detector(), [teacher], ("MasKD",)).check_heads()
