"""The sections of `gpu_check.py`, each in a process of its own: rows of a name and what was found.

python benchmarks/gpu_sections.py waits --device cuda rows.jsonl
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # for the tests' pairs

import bm_step  # noqa: E402
import bm_teacher  # noqa: E402
import torch  # noqa: E402
from detectron2.utils.events import EventStorage  # noqa: E402
from gpu_runs import distillation, export, ranks, tests  # noqa: E402
from memory import peak_bytes  # noqa: E402
from timing import alternate, training_step  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from d2kd.testing import make_batch, tiny_cfg  # noqa: E402
from tests.heads.test_no_sync import HEADS, PAIRS, CountWaiting, distiller  # noqa: E402
from tests.helpers import clone  # noqa: E402

Row = Tuple[str, Dict[str, Any]]
DRAWN = ("MGD", "RoIKD", "MaskKD")  # random numbers of a GPU are others than the CPU's
SCALE = 16.0  # of the loss in half precision
PRECISIONS = {"fp16": torch.float16, "bf16": torch.bfloat16}
TEACHERS = {False: ("configs/detectors/retinanet_R_101_FPN.yaml", [800, 1333]),
            True: ("configs/quickstart/teacher.yaml", [64, 96])}  # fmt: skip


def attempt(name: str, function: Callable[..., Dict[str, Any]], *args: Any) -> Row:
    """A row, of the error where there is one: the others go on."""
    try:
        return name, function(*args)
    except Exception as error:
        reason = (str(error).strip() or "no message").splitlines()[-1]
        return name, {"error": f"{type(error).__name__}: {reason}"}


def detectors_of(head: str) -> List[str]:
    return [meta for name, meta in PAIRS if name == head]


def step(model: nn.Module, dtype: torch.dtype | None = None) -> Tuple[Dict[str, float], Tensor]:
    """Losses, and the gradients of all parameters together."""
    torch.manual_seed(0)
    kind = next(model.parameters()).device.type
    with torch.autocast(kind, dtype, enabled=dtype is not None):
        losses = model(make_batch())
    scale = 1.0 if dtype is None else SCALE
    model.zero_grad()
    (scale * sum(losses.values())).backward()
    grads = [x.grad.double().cpu().flatten() for x in model.parameters() if x.grad is not None]
    return {k: v.item() for k, v in losses.items()}, torch.cat(grads) / scale


def distances(found: Tuple, exact: Tuple) -> Dict[str, float]:
    """Largest relative difference of a loss, and that of the gradient by its norm; NaN stays."""
    pairs = [(found[0][k], v) for k, v in exact[0].items()]
    losses = torch.tensor([abs(a - b) / max(abs(b), 0.01) for a, b in pairs]).max().item()
    return {"losses": losses, "gradient": ((found[1] - exact[1]).norm() / exact[1].norm()).item()}


def worst(head: str, measure: Callable[[str], Dict[str, float]]) -> Dict[str, Any]:
    """The largest distances of the detectors that a method can have."""
    found = {meta: measure(meta) for meta in detectors_of(head)}
    kinds = next(iter(found.values()))
    tops = {kind: max(found, key=lambda meta: _rank(found[meta][kind])) for kind in kinds}
    shown = {kind: f"{found[meta][kind]:.2g} ({meta})" for kind, meta in tops.items()}
    return {"detectors": len(found), **shown}


def _rank(x: float) -> float:
    return float("inf") if x != x else x


def device(args: argparse.Namespace) -> Iterator[Row]:
    """Losses and gradients on the device, beside the CPU's, in fp32 without TF32."""
    torch.backends.cudnn.allow_tf32 = False

    def measure(head: str, meta: str) -> Dict[str, float]:
        model = distiller(head, meta)
        exact = step(clone(model))
        return distances(step(model.to(args.device)), exact)

    for head in (x for x in args.methods if x not in DRAWN):
        kept = [meta for meta in detectors_of(head) if meta != "GeneralizedRCNN"]
        if kept:
            yield attempt(head, worst, head, lambda meta, head=head: measure(head, meta))


def precision(args: argparse.Namespace) -> Iterator[Row]:
    """Mixed precision, beside fp32 on the same device."""

    def measure(head: str, meta: str, dtype: torch.dtype) -> Dict[str, float]:
        model = distiller(head, meta).to(args.device)
        return distances(step(clone(model), dtype), step(model))

    for head in args.methods:
        for name, dtype in PRECISIONS.items():
            one = lambda meta, head=head, dtype=dtype: measure(head, meta, dtype)  # noqa: E731
            yield attempt(f"{head}, {name}", worst, head, one)


def waits(args: argparse.Namespace) -> Iterator[Row]:
    """How often a step makes the host wait: plain ones, and what methods add at most."""

    def count(model: nn.Module) -> int:
        model, batch = model.to(args.device).train(), make_batch()
        once = lambda: sum(model(batch).values()).backward()  # noqa: E731
        once()
        if args.device != "cpu":
            return bm_step.waits(once)
        with CountWaiting() as found:
            once()
        return found.found.total()

    plain: Dict[str, int] = {}
    for head, meta in PAIRS:
        if head in args.methods and meta not in plain:
            plain[meta] = count(distiller(head, meta).student)
            yield meta, {"waits of a plain step": plain[meta]}
    for head in args.methods:
        yield attempt(head, worst_waits, head, plain, count)


def worst_waits(head: str, plain: Dict[str, int], count: Callable) -> Dict[str, Any]:
    added = {meta: count(distiller(head, meta)) - plain[meta] for meta in detectors_of(head)}
    top = max(added, key=lambda meta: added[meta])
    return {"waits that it adds": f"{added[top]} ({top})"}


def tax(args: argparse.Namespace) -> Iterator[Row]:
    """Time and memory of a distilled step beside the plain one."""
    for head in args.methods:
        yield attempt(head, _tax, head, args)
        if args.device != "cpu":
            torch.cuda.empty_cache()


def _tax(head: str, args: argparse.Namespace) -> Dict[str, Any]:
    if args.tiny:
        cfg, distilled, batch = tiny_cfg(), distiller(head, detectors_of(head)[0]), make_batch()
        plain = clone(distilled.student)
    else:
        asked = argparse.Namespace(student="R_50", teacher="R_101")
        cfg, plain, distilled = bm_step.build(head, asked, args.device)
        batch = make_batch([(800, 1333)] * 2, classes=80, boxes=8)
    models = {"plain": plain.to(args.device), "distilled": distilled.to(args.device)}
    steps = {name: training_step(model, cfg, batch) for name, model in models.items()}
    times = alternate(steps, 1 if args.tiny else 5, args.device)
    found = {f"{name} ms": round(statistics.median(x), 1) for name, x in times.items()}
    ratios = [b / a - 1 for a, b in zip(times["plain"], times["distilled"], strict=True)]
    peaks = {f"{k} MiB": round(peak_bytes(x, args.device) / 2**20) for k, x in steps.items()}
    return {**found, "tax": round(statistics.median(ratios), 2), **peaks}


def teacher(args: argparse.Namespace) -> Iterator[Row]:
    """A teacher's forward in each precision and order of memory."""
    yield from _ways(args, [x for x in bm_teacher.WAYS if x not in ("compiled", "cached")])


def compiled(args: argparse.Namespace) -> Iterator[Row]:
    """A teacher's forward, compiled."""
    yield from _ways(args, ["fp32", "compiled"])


def _ways(args: argparse.Namespace, ways: List[str]) -> Iterator[Row]:
    config, size = TEACHERS[args.tiny]
    asked = argparse.Namespace(teacher=config, weights="", size=size, batch=2, ways=ways,
                               rounds=1 if args.tiny else 7)  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        for name, row in bm_teacher.measure(asked, args.device, folder).items():
            yield name, {k: float(f"{x:.3g}") for k, x in row.items()}


SECTIONS = {x.__name__: x for x in (device, precision, waits, tests, tax, teacher, export, compiled,
                                    distillation, ranks)}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("section", choices=list(SECTIONS))
    parser.add_argument("rows", type=Path, help="file that gets a line of JSON for each row")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--methods", nargs="+", choices=HEADS, default=HEADS)
    args = parser.parse_args()
    with args.rows.open("w") as file, EventStorage(0):
        for name, found in SECTIONS[args.section](args):
            file.write(json.dumps({"": name, **found}) + "\n")
            file.flush()


if __name__ == "__main__":
    main()
