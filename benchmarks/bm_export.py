"""Size and latency of exported detectors beside PyTorch, on one CPU thread, with random weights.

The predictors are scaled so that scores scatter, and the threshold is set so that `--candidates`
of them exceed it and boxes reach NMS, as with a trained detector. Times are medians of
runs that take turns.

    python benchmarks/bm_export.py --size 640 800 configs/detectors/gfl_R_50_FPN.yaml
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from detectron2.modeling import build_model

from d2kd.config.loading import load_config
from d2kd.export import Options, check_export, export_onnx, export_pt2, measure_export
from d2kd.export.graph import AllBoxes


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("configs", nargs="+")
    parser.add_argument("--size", nargs=2, type=int, default=[640, 800], metavar=("H", "W"))
    parser.add_argument("--candidates", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=9)
    return parser.parse_args()


@torch.no_grad()
def scatter(model: torch.nn.Module, pixels: torch.Tensor) -> None:
    """Give class logits and box predictions of the image a deviation of 1."""
    out = AllBoxes(model, Options(tuple(pixels.shape[2:]), "BGR")).predict(pixels)
    for layer, maps in ((model.head.cls_score, out.logits), (model.head.bbox_pred, out.deltas)):
        layer.weight.div_(torch.cat(list(maps.values()), 1).std())


@torch.no_grad()
def threshold(model: torch.nn.Module, pixels: torch.Tensor, candidates: int) -> float:
    """The score that so many class scores of the image exceed."""
    scores = AllBoxes(model, Options(tuple(pixels.shape[2:]), "BGR"))(pixels)[1].flatten()
    return scores.topk(candidates + 1).values[-1].item()


def row(path: str, args: argparse.Namespace, folder: Path) -> str:
    model = build_model(load_config(path, ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", ""])).eval()
    image = np.random.default_rng(0).integers(0, 256, (*args.size, 3), np.uint8)
    pixels = torch.from_numpy(image.transpose(2, 0, 1).copy()).float()[None]
    scatter(model, pixels)
    limits = {"score_threshold": threshold(model, pixels, args.candidates)}
    common = {"size": tuple(args.size), "input_format": "BGR"}
    cells = [Path(path).stem]
    for write, name, nms in (
        (export_onnx, "nms.onnx", True),
        (export_onnx, "raw.onnx", False),
        (export_pt2, "nms.pt2", True),
    ):
        write(model, folder / name, nms=nms, **common, **(limits if nms else {}))
        check_export(folder / name, model, [image])
        cost = measure_export(folder / name, model, image, args.repeats)
        cells.append(f"{cost.size_mb:.1f} MB, {cost.exported_ms:.0f} ms ({cost.torch_ms:.0f})")
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    args = parse_arguments()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print("| detector | ONNX (PyTorch) | ONNX without NMS | torch.export |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for path in args.configs:
            print(row(path, args, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
