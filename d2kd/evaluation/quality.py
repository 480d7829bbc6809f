"""How well a predicted localization quality tells the true one."""

from typing import Any, Dict, List, Tuple

import numpy as np
import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.structures import ImageList
from detectron2.utils import comm
from matplotlib.figure import Figure
from scipy.stats import pearsonr, spearmanr
from torch import Tensor, nn

from ..adapters import build_adapter
from ..losses import box_iou_loss
from ..losses.labels import foreground

_NEED = frozenset({"logits", "scores", "deltas", "quality", "anchors"})


class QualityProbe(nn.Module):
    """Predicted and true quality at every positive location of a batch.

    Positives are those of the detector's own label assignment (AutoAssign, which has none, labels
    each cell by the largest prior of the boxes that it lies in); the truth is the IoU of the box
    predicted there with the matched object. "quality" is the sigmoid of the quality logit, where
    the detector has one, "score" the score of the object's class.
    """

    def __init__(self, detector: DenseDetector) -> None:
        """Wrap a dense detector.

        Raises:
            TypeError: it has no dense head.
        """
        super().__init__()
        self.detector = detector
        self.adapter = build_adapter(detector)
        if not {"logits", "deltas"} <= self.adapter.provides:
            raise TypeError(
                f"{type(detector).__name__} has no dense head whose quality could be measured; "
                "use RetinaNet, FCOS, ATSS, AutoAssign, DDOD, GFL or RepPoints."
            )
        self.training = detector.training

    @torch.no_grad()
    def forward(self, batched_inputs: List[dict]) -> List[Dict[str, np.ndarray]]:
        """Per image "iou", "score" and, if any, "quality", (n,) each in [0, 1].

        Args:
            batched_inputs: dicts with "image" and "instances".
        """
        divisor = max(self.detector.backbone.size_divisibility, 1)
        images: ImageList = self.adapter.preprocess(batched_inputs, divisor)
        out = self.adapter(images, None, _NEED & self.adapter.provides)
        gt = [x["instances"].to(images.device) for x in batched_inputs]
        labels, targets = self.adapter.label(out, gt)
        maps = {"iou": self.adapter.decode(out), "score": out.scores, "quality": out.quality}
        values = {key: torch.cat(list(x.values()), 1) for key, x in maps.items() if x}
        return [
            _positives(label, target, {key: x[i] for key, x in values.items()})
            for i, (label, target) in enumerate(zip(labels, targets, strict=True))
        ]


def _positives(labels: Tensor, targets: Tensor, values: Dict[str, Tensor]) -> Dict[str, np.ndarray]:
    rows = foreground(labels, values["score"].shape[-1]).nonzero().squeeze(1)
    found = {
        "iou": 1 - box_iou_loss(values["iou"][rows], targets[rows], "iou"),
        "score": values["score"][rows, labels[rows]],
    }
    if "quality" in values:
        found["quality"] = values["quality"][rows, 0].float().sigmoid()
    return {key: x.double().cpu().numpy() for key, x in found.items()}


class QualityEvaluator(DatasetEvaluator):
    """Correlation and calibration of predicted quality and score with the true IoU.

    Feed it the outputs of a `QualityProbe`. Results, by what is predicted: "pearson" and "spearman"
    in [-1, 1], "ece", the mean over `bins` equal bins of the prediction, weighted by their share of
    locations, of |mean prediction - mean IoU|, "mean", "mean_iou" and "count".
    """

    def __init__(self, bins: int = 10) -> None:
        """Set the number of bins."""
        self.bins = bins
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._found: List[Dict[str, np.ndarray]] = []
        self.values: Dict[str, np.ndarray] = {}

    def process(self, inputs: List[dict], outputs: List[Dict[str, np.ndarray]]) -> None:
        """Keep the outputs of a `QualityProbe`."""
        self._found.extend(outputs)

    def evaluate(self) -> Dict[str, Dict[str, float]]:
        """Gather the ranks and compute; {} off the main rank.

        Raises:
            ValueError: no positive location in the whole data set.
        """
        gathered = comm.gather(self._found, dst=0)
        if not comm.is_main_process():
            return {}
        found = [x for rank in gathered for x in rank]
        names = [name for name in ("iou", "score", "quality") if found and name in found[0]]
        self.values = {name: np.concatenate([x[name] for x in found]) for name in names}
        if not self.values or len(self.values["iou"]) < 2:
            raise ValueError("no positive location in the data set: it has no objects to match.")
        iou = self.values["iou"]
        return {
            name: agreement(self.values[name], iou, self.bins) for name in names if name != "iou"
        }

    def plot(self, results: Dict[str, Dict[str, Any]]) -> Figure:
        """Joint histogram and mean IoU per bin of each prediction; call it after `evaluate`."""
        names = [name for name in self.values if name != "iou"]
        figure = Figure(figsize=(4 * len(names), 3.8), dpi=120, layout="constrained")
        for axis, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
            x, y = self.values[name], self.values["iou"]
            axis.hist2d(x, y, bins=40, range=((0, 1), (0, 1)), cmap="Greys", cmin=1)
            axis.plot([0, 1], [0, 1], ":", color="tab:blue", lw=1)
            centers, means, _ = bin_means(x, y, self.bins)
            axis.plot(centers, means, "o-", color="tab:red", ms=3, lw=1, label="mean IoU of a bin")
            r = results[name]
            title = f"Pearson {r['pearson']:.3f}, Spearman {r['spearman']:.3f}, ECE {r['ece']:.3f}"
            axis.set_title(title, fontsize=8)
            axis.set(xlabel=f"predicted {name}", ylabel="IoU with the object")
            axis.legend(fontsize=7, loc="upper left")
        return figure


def agreement(predicted: np.ndarray, iou: np.ndarray, bins: int = 10) -> Dict[str, float]:
    """Statistics of (n,) predictions and true IoUs in [0, 1]; see `QualityEvaluator`.

    Correlations are nan where either is constant.
    """
    centers, means, counts = bin_means(predicted, iou, bins)
    constant = np.ptp(predicted) == 0 or np.ptp(iou) == 0
    return {
        "pearson": float("nan") if constant else float(pearsonr(predicted, iou).statistic),
        "spearman": float("nan") if constant else float(spearmanr(predicted, iou).statistic),
        "ece": float(np.abs(centers - means) @ counts / counts.sum()),
        "mean": float(predicted.mean()),
        "mean_iou": float(iou.mean()),
        "count": len(iou),
    }


def bin_means(
    predicted: np.ndarray, iou: np.ndarray, bins: int
) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean prediction, mean IoU and count of every bin that is not empty."""
    index = np.minimum((predicted * bins).astype(int), bins - 1)
    counts = np.bincount(index, minlength=bins)
    used = counts > 0
    sums = (np.bincount(index, weights=x, minlength=bins)[used] for x in (predicted, iou))
    centers, means = (x / counts[used] for x in sums)
    return centers, means, counts[used]
