"""What only a GPU can show, in ten minutes: output/gpu_check/report.md and report.json.

Each section is a process of its own, so that one that fails, hangs or loses the GPU does not take
the others with it; the report is written anew behind each. `--device cpu` rehearses all of them at
tiny sizes.

    make gpu-check
    python benchmarks/gpu_check.py --device cpu
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, List

import torch
from tabulate import tabulate
from timing import header

ROOT = Path(__file__).resolve().parents[1]
SECTIONS = {  # in this order: what it is called, seconds that it may take, and how to read it
    "device": ("Methods on the device", 75, "Largest difference of a loss and of the gradient from "
               "the CPU's, in fp32 without TF32, over all detectors of a method. Those that draw "
               "random numbers (MGD, RoIKD, MaskKD, two-stage detectors) are left out."),
    "precision": ("Mixed precision", 90, "Largest difference of a loss and of the gradient from "
                  "fp32 on the same device. NaN is an overflow."),
    "waits": ("How often the host waits", 60, "By CUDA's sync debug mode; on the CPU operators "
              "whose result the host needs, and constants that it makes. LD may add two, SetKD a "
              "teacher's boxes."),
    "tests": ("Tests that need a GPU", 60, "Several need several GPUs."),
    "tax": ("Time and memory of a step", 180, "R50 from R101, two images of 800 x 1333 px, fp32; "
            "the tax is (distilled - plain) / plain, and memory what a step allocates on top."),
    "teacher": ("The teacher's forward", 60, "RetinaNet R101, two images of 800 x 1333 px; "
                "differences are the largest, of features by their level's largest value."),
    "distillation": ("A short training", 150, "The quick start's student on digits, plain and "
                     "distilled, in fp32 and in mixed precision. AP of a few hundred steps."),
    "export": ("Export", 60, "Of the quick start's teacher, against PyTorch's detections."),
    "ranks": ("Ranks", 90, "The quick start's distilled student, one rank a GPU."),
    "compiled": ("The teacher's forward, compiled", 90, "As above, with torch.compile."),
}  # fmt: skip
TINY = "Tiny models and images, so times and ratios say nothing: this shows that it runs. "


def parse_arguments(words: List[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda", help="cpu rehearses, at tiny sizes")
    parser.add_argument("--sections", nargs="+", choices=list(SECTIONS), default=list(SECTIONS))
    parser.add_argument("--methods", nargs="+", help="of the first sections; default: all")
    parser.add_argument("--seconds", type=float,
                        help="for everything; default: 600, on the CPU 1800")  # fmt: skip
    parser.add_argument("--output", type=Path, default=Path("output/gpu_check"))
    args = parser.parse_args(words)
    if args.device != "cpu" and not torch.cuda.is_available():
        sys.exit("No GPU is found: --device cpu rehearses the check, at tiny sizes.")
    args.seconds = args.seconds or (1800 if args.device == "cpu" else 600)
    return args


def about(args: argparse.Namespace) -> Dict[str, str]:
    """The machine, the versions and the code."""
    done = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, text=True,
                          capture_output=True)  # fmt: skip
    known = header("cpu" if args.device == "cpu" else "cuda")
    more = {
        "CUDA": str(torch.version.cuda),
        "GPUs": str(torch.cuda.device_count()),
        "Python": platform.python_version(),
        "commit": done.stdout.strip() or "unknown",
    }
    return {**known, **more, "date": time.strftime("%Y-%m-%d")}


def run(name: str, limit: float, args: argparse.Namespace) -> Dict[str, Any]:
    """Rows of a section, its seconds, and what went wrong."""
    rows, start, problem = args.output / f"{name}.jsonl", time.perf_counter(), ""
    words = [sys.executable, "benchmarks/gpu_sections.py", name, str(rows.resolve()),
             "--device", args.device, *(["--tiny"] if args.device == "cpu" else []),
             *(["--methods", *args.methods] if args.methods else [])]  # fmt: skip
    rows.unlink(missing_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(words, cwd=ROOT, env=environment, text=True, start_new_session=True,
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)  # fmt: skip
    try:
        _, said = process.communicate(timeout=limit)
        if process.returncode:
            last = (said.strip() or "nothing was printed").splitlines()[-1]
            problem = f"It ended with exit code {process.returncode}: {last}"
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # what it has started too
        process.communicate()
        problem = f"It was stopped after {limit:.0f} seconds; rows are those that it had."
    lines = rows.read_text().splitlines() if rows.is_file() else []
    rows.unlink(missing_ok=True)
    return {"rows": [json.loads(x) for x in lines], "problem": problem,
            "seconds": round(time.perf_counter() - start, 1)}  # fmt: skip


def text_of(name: str, found: Dict[str, Any]) -> str:
    """A section of the report."""
    title, _, text = SECTIONS[name]
    failed = sum("error" in row for row in found["rows"])
    parts = [f"## {title}", f"{text} {found['seconds']} s."]
    parts += [f"**{failed} of its rows failed.**"] * bool(failed)
    parts += [f"**{found['problem']}**"] * bool(found["problem"])
    for columns in dict.fromkeys(tuple(row) for row in found["rows"]):  # kinds of rows
        kept = [row.values() for row in found["rows"] if tuple(row) == columns]
        parts.append(tabulate(kept, columns, tablefmt="github", disable_numparse=True))
    return "\n\n".join(parts)


def write(folder: Path, machine: Dict[str, str], results: Dict[str, Any], tiny: bool) -> None:
    """Report and JSON, as far as they are known."""
    lines = [f"- {key}: {value}" for key, value in machine.items()]
    seconds = sum(x["seconds"] for x in results.values())
    parts = ["# GPU check", f"{TINY if tiny else ''}{seconds:.0f} s in all.", "\n".join(lines)]
    parts += [text_of(name, found) for name, found in results.items()]
    (folder / "report.md").write_text("\n\n".join(parts) + "\n")
    (folder / "report.json").write_text(json.dumps({"about": machine, **results}, indent=1))


def main(words: List[str] | None = None) -> None:
    args = parse_arguments(words)
    args.output.mkdir(parents=True, exist_ok=True)
    machine, results, end = about(args), {}, time.perf_counter() + args.seconds
    for name in (x for x in SECTIONS if x in args.sections):
        limit = min(SECTIONS[name][1] if args.device != "cpu" else 300, end - time.perf_counter())
        if limit < 1:
            results[name] = {"rows": [], "problem": "There was no time left.", "seconds": 0.0}
            continue
        print(f"{SECTIONS[name][0]} ...", flush=True)
        results[name] = run(name, limit, args)
        write(args.output, machine, results, args.device == "cpu")
    write(args.output, machine, results, args.device == "cpu")
    print(f"{args.output / 'report.md'}")


if __name__ == "__main__":
    main()
