"""PGD's weight maps and losses beside straightforward forms of them, which are kept here.

`maps`: all boxes of a batch at once, against a loop over boxes that computes the IoU with every
location once and ranks it for both maps. `losses`: both towers' losses, forward and backward, P3 to
P7, against the form with two masked differences and full graphs ("unfused"), and the one that the
released code has, whose masks are broadcast over pairs of images ("cross-image"). Runs alternate;
medians, and the median of the rounds' ratios.

    python benchmarks/bm_pgd.py --rounds 7
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Callable, Dict, List, Tuple

import torch
import torch.nn.functional as F
from timing import alternate, default_device, header
from torch import Tensor

from d2kd.heads.key_region import covered, key_region_weights
from d2kd.losses.pgd import box_tower_loss, class_tower_loss

BOXES = (10, 50, 100, 200, 300, 500)
ALPHA, BETA, GAMMA, DELTA, TAU = 0.08, 0.04, 0.128, 8e-4, 0.8


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", nargs=2, type=int, default=[800, 1344], metavar=("H", "W"))
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--channels", type=int, default=256)
    parser.add_argument("--top-k", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", choices=["maps", "losses"])
    parser.add_argument("--output", help="JSON file to write")
    return parser.parse_args()


def shapes(size: List[int]) -> Dict[int, Tuple[int, int]]:
    return {s: (-(-size[0] // s), -(-size[1] // s)) for s in (8, 16, 32, 64, 128)}


def scene(args: argparse.Namespace, boxes: int, device: str) -> dict:
    """Predictions around their locations and as large as their level's anchors; small objects."""
    rng = torch.Generator().manual_seed(boxes)
    points, sizes = [], []
    for stride, (h, w) in shapes(args.size).items():
        y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
        points.append(torch.stack([x, y], -1).flatten(0, 1).float() * stride)
        sizes.append(torch.full((h * w, 1), float(stride)))
    points, sizes = torch.cat(points), torch.cat(sizes)
    shape = args.batch, len(points), 2
    half = 4 * sizes * torch.randn(shape, generator=rng).mul(0.5).exp()
    center = points + sizes * torch.randn(shape, generator=rng)
    low = torch.rand(args.batch * boxes, 2, generator=rng) * torch.tensor(args.size[::-1]) * 0.9
    gt = torch.cat([low, low + 16 + 120 * torch.rand(low.shape, generator=rng)], 1)
    images = torch.arange(args.batch).repeat_interleave(boxes)
    classes = torch.randint(args.classes, images.shape, generator=rng)
    logits = torch.randn(args.batch, len(points), args.classes, generator=rng) - 4
    tensors = {
        "scores": logits.sigmoid(), "boxes": torch.cat([center - half, center + half], -1),
        "points": points, "valid": torch.ones(args.batch, len(points), dtype=torch.bool),
        "gt": gt, "rows": torch.stack([images, classes]),
    }  # fmt: skip
    return {k: v.to(device) for k, v in tensors.items()}


def all_at_once(scene: dict, top_k: int) -> List[Tensor]:
    maps = key_region_weights(**scene, exponents=(0.8, 0.6), top_k=top_k)
    images = scene["rows"][0]
    inside = covered(scene["points"], scene["gt"], images, len(scene["valid"]), False)
    return [*maps, (~inside).float()]


def one_by_one(scene: dict, top_k: int) -> List[Tensor]:
    """The same, box after box."""
    points, eye = scene["points"], torch.eye(2, device=scene["points"].device) / 1200
    maps = [torch.zeros_like(scene["boxes"][..., 0]) for _ in range(2)]
    background = torch.ones_like(maps[0])
    for gt, (n, c) in zip(scene["gt"], scene["rows"].T.tolist(), strict=True):
        boxes = scene["boxes"][n]
        wh = torch.min(boxes[:, 2:], gt[2:]) - torch.max(boxes[:, :2], gt[:2])
        inner = wh.clamp(min=0).prod(1)
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(1) + (gt[2:] - gt[:2]).prod()
        iou = inner / (areas - inner).clamp(min=1e-6)
        inside = ((points > gt[:2]) & (points < gt[2:])).all(1)
        background[n] *= ~inside
        for xi, weight in zip((0.8, 0.6), maps, strict=True):
            quality = scene["scores"][n, :, c] ** (1 - xi) * iou**xi
            index = quality.topk(top_k).indices
            delta = points[index] - points[index].mean(0)
            inverse = torch.linalg.inv(delta.T @ delta / top_k + eye)
            w = torch.exp(-0.5 * ((delta @ inverse) * delta).sum(1)) * inside[index]
            weight[n, index] = torch.maximum(weight[n, index], w)
    return [*maps, background]


def compare_maps(args: argparse.Namespace, device: str) -> Dict[int, dict]:
    results = {}
    print(f"\n{'boxes an image':>16}{'loop (ms)':>12}{'d2kd (ms)':>12}{'us a box':>10}{'ratio':>8}")
    for boxes in BOXES:
        data = scene(args, boxes, device)
        for a, b in zip(one_by_one(data, args.top_k), all_at_once(data, args.top_k), strict=True):
            torch.testing.assert_close(a, b, atol=1e-3, rtol=0)
        functions = {
            "loop": lambda d=data: one_by_one(d, args.top_k),
            "d2kd": lambda d=data: all_at_once(d, args.top_k),
        }
        results[boxes] = row = medians(alternate(functions, args.rounds, device), "loop")
        each = 1000 * row["d2kd"]["ms"] / boxes / args.batch
        ms = row["loop"]["ms"], row["d2kd"]["ms"]
        print(f"{boxes:16}{ms[0]:12.1f}{ms[1]:12.1f}{each:10.1f}{row['d2kd']['ratio']:8.2f}")
    return results


def medians(times: Dict[str, List[float]], over: str) -> Dict[str, dict]:
    """Median ms, and how many times faster than `over`."""
    return {
        name: {
            "ms": statistics.median(values),
            "ratio": statistics.median(a / b for a, b in zip(times[over], values, strict=True)),
        }
        for name, values in times.items()
    }


def attention(x: Tensor) -> Tuple[Tensor, Tensor]:
    n, c, h, w = x.shape
    spatial = (x.abs().mean(1).flatten(1) / TAU).softmax(1).view(n, 1, h, w) * h * w
    return spatial, (x.abs() / TAU).softmax(1) * c


def unfused(student: Tensor, teacher: Tensor, masks: dict, cross_image: bool) -> Tensor:
    """Both towers' losses of one level as in the released code, masks per image or crossed."""
    n, _, h, w = student.shape
    (spatial_s, channel_s), (spatial_t, channel_t) = attention(student), attention(teacher)
    loss = 0
    for share, mask in ((ALPHA, masks["object"]), (BETA, masks["background"])):
        mask = (mask / mask.count_nonzero(1)[:, None].clamp(min=1)).view(n, 1, h, w)
        mask = mask[:, None] if cross_image else mask
        roots = [x.sqrt() for x in (spatial_t, channel_t, mask)]
        a, b = (x * roots[0] * roots[1] * roots[2] for x in (student, teacher))
        loss = loss + share * F.mse_loss(a, b, reduction="sum") / n
    loss = loss + DELTA * (channel_s - channel_t).abs().sum() / (n * h * w)
    loss = loss + DELTA * (spatial_s - spatial_t).abs().sum() / n
    weight = masks["box"].view(n, h, w)
    a, b = (x.permute(0, 2, 3, 1)[weight > 0] for x in (student, teacher))
    c_a, c_b = ((x.abs() / TAU).softmax(1) * x.shape[1] for x in (a, b))
    feature = ((a - b).square() * c_b).mean(1) * weight[weight > 0]
    return loss + (GAMMA * feature.sum() + DELTA * (c_a - c_b).abs().sum()) / max(len(a), 1)


def fused(student: Tensor, teacher: Tensor, masks: dict, cross_image: bool) -> Tensor:
    shares = (
        share * x / x.count_nonzero(1)[:, None].clamp(min=1)
        for share, x in ((ALPHA, masks["object"]), (BETA, masks["background"]))
    )
    weight = sum(shares)
    if cross_image:
        weight = weight.sum(0, keepdim=True).expand_as(weight)
    count = masks["box"].count_nonzero().clamp(min=1)
    most = masks["most"]
    return class_tower_loss(student, teacher, weight, DELTA, TAU) + box_tower_loss(
        student, teacher, masks["box"], count, most, GAMMA, DELTA, TAU
    )


def loss_steps(args: argparse.Namespace, device: str) -> Dict[str, Callable]:
    """One call: all levels, forward and backward. 20 boxes an image."""
    maps, boxes = all_at_once(scene(args, 20, device), args.top_k), 20
    sizes = list(shapes(args.size).values())
    maps = [x.split([h * w for h, w in sizes], 1) for x in maps]
    levels, rng = [], torch.Generator(device).manual_seed(0)
    for (h, w), *m in zip(sizes, *maps, strict=True):
        size = args.batch, args.channels, h, w
        pair = [torch.randn(size, generator=rng, device=device).relu() for _ in range(2)]
        masks = dict(zip(("object", "box", "background"), m, strict=True), most=args.top_k * boxes)
        levels.append((pair[0].requires_grad_(), pair[1], masks))

    def step(loss: Callable, cross_image: bool) -> float:
        total = sum(loss(*level, cross_image) for level in levels)
        total.backward()
        for student, _, _ in levels:
            student.grad = None
        return total.item()

    return {
        "unfused": lambda: step(unfused, False), "d2kd": lambda: step(fused, False),
        "cross-image": lambda: step(unfused, True),
        "d2kd, cross-image": lambda: step(fused, True),
    }  # fmt: skip


def compare_losses(args: argparse.Namespace, device: str) -> Dict[str, dict]:
    functions = loss_steps(args, device)
    values = {name: f() for name, f in functions.items()}
    torch.testing.assert_close(values["unfused"], values["d2kd"], rtol=1e-3, atol=0)
    torch.testing.assert_close(
        values["cross-image"], values["d2kd, cross-image"], rtol=1e-3, atol=0
    )
    results = medians(alternate(functions, args.rounds, device), "unfused")
    print(f"\n{'losses':20}{'ms':>10}{'times faster than unfused':>28}")
    for name, row in results.items():
        print(f"{name:20}{row['ms']:10.1f}{row['ratio']:28.2f}")
    return results


def main() -> None:
    args, device = parse_arguments(), default_device()
    head = {**header(device), **vars(args)}
    print("\n".join(f"{key}: {value}" for key, value in head.items()))
    results = {"header": head}
    if args.only != "losses":
        results["maps"] = compare_maps(args, device)
    if args.only != "maps":
        results["losses"] = compare_losses(args, device)
    if args.output:
        Path(args.output).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
