"""What a teacher of each source costs beside its own library's forward, which gives the same.

Pixels to maps and predictions, random weights, without gradients; both run in turns, in
CPU time where there is no GPU.

    OMP_NUM_THREADS=1 python benchmarks/bm_sources.py
    OMP_NUM_THREADS=1 python benchmarks/bm_sources.py --sources vitdet --rounds 3
"""

import argparse
import statistics
import tempfile
import time
from typing import Any, Callable, FrozenSet, NamedTuple

import torch
from detectron2.modeling.meta_arch.rcnn import GeneralizedRCNN
from timing import alternate, default_device, header
from torch import Tensor, nn

from d2kd import Teacher
from d2kd.config.defaults import get_d2kd_cfg
from d2kd.config.loading import merge_config_file
from d2kd.config.naming import construct


class Case(NamedTuple):
    """A teacher's detector, the fields that are asked of it, and its library's call for them."""

    detector: nn.Module
    need: FrozenSet[str]
    call: Callable[[Tensor], Any]  # of (3, H, W) in 0..255, RGB


def build(name: str, device: str) -> nn.Module:
    cfg = get_d2kd_cfg()
    merge_config_file(cfg, name, "--teacher")
    cfg.MODEL.DEVICE = device
    torch.manual_seed(0)
    return construct(cfg).eval()


def torchvision(device: str) -> Case:
    from torchvision.models import detection

    name = "retinanet_resnet50_fpn_v2"
    library = getattr(detection, name)(weights=None, weights_backbone=None).eval().to(device)

    def call(image: Tensor) -> Any:
        pixels = library.transform.normalize(image / 255)[None]
        return library.head(list(library.backbone(pixels).values()))

    fields = frozenset({"features", "logits", "deltas"})
    return Case(build(f"torchvision:{name}", device), fields, call)


def transformers(device: str) -> Case:
    """RT-DETR with ResNet-50, of the library's defaults."""
    from transformers import RTDetrConfig, RTDetrImageProcessor

    with tempfile.TemporaryDirectory() as folder:
        RTDetrConfig().save_pretrained(folder)
        RTDetrImageProcessor().save_pretrained(folder)
        detector = build(f"hf:{folder}", device)
    model = detector.backbone.model

    def call(image: Tensor) -> Any:
        mask = torch.ones(1, *image.shape[1:], dtype=torch.long, device=device)
        return model(image[None] / 255, pixel_mask=mask)

    return Case(detector, frozenset({"features", "sets"}), call)


def timm(device: str) -> Case:
    detector = build("timm:vit_small_patch16_dinov3.lvd1689m", device)
    body, mean, std = detector.backbone.body, detector.pixel_mean, detector.pixel_std
    fields = frozenset({"features"})
    return Case(detector, fields, lambda image: body.forward_features((image[None] - mean) / std))


def detectron2(name: str) -> Callable[[str], Case]:
    def case(device: str) -> Case:
        model: GeneralizedRCNN = build(name, device)
        rpn = model.proposal_generator

        def call(image: Tensor) -> Any:
            maps = model.backbone(model.preprocess_image([{"image": image}]).tensor)
            return rpn.rpn_head([maps[x] for x in rpn.in_features])

        return Case(model, frozenset({"features", "rpn"}), call)

    return case


SOURCES = {
    "zoo": detectron2("new_baselines/mask_rcnn_R_50_FPN_100ep_LSJ.py"), "torchvision": torchvision,
    "hf": transformers, "timm": timm, "vitdet": detectron2("vitdet:mask_rcnn_vitdet_b"),
}  # fmt: skip


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    quick = [name for name in SOURCES if name != "vitdet"]
    parser.add_argument("--sources", nargs="+", choices=list(SOURCES), default=quick)
    parser.add_argument("--size", nargs=2, type=int, default=[320, 320], metavar=("H", "W"))
    parser.add_argument("--rounds", type=int, default=9)
    return parser.parse_args()


@torch.no_grad()
def main() -> None:
    args, device = parse_arguments(), default_device()
    clock = time.perf_counter if device == "cuda" else time.process_time
    print("\n".join(f"{key}: {value}" for key, value in {**header(device), **vars(args)}.items()))
    print(f"\n{'':14}{'library ms':>12}{'teacher ms':>12}{'ratio':>8}{'quartiles':>16}")
    for name in args.sources:
        detector, need, call = SOURCES[name](device)
        teacher = Teacher(detector, input_format="RGB")
        image = torch.rand(3, *args.size, device=device) * 255
        ways = {
            "library": lambda call=call, image=image: call(image),
            "teacher": lambda t=teacher, image=image, need=need: t(
                [{"image": image}], 32, "RGB", need
            ),
        }
        times = alternate(ways, args.rounds, device, clock)
        ratios = [b / a for a, b in zip(times["library"], times["teacher"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        library, ours = (statistics.median(times[x]) for x in ways)
        print(f"{name:14}{library:12.1f}{ours:12.1f}{middle:8.3f}{low:9.3f}{high:7.3f}", flush=True)


if __name__ == "__main__":
    main()
