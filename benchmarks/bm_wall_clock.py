"""AP over the time of training: undistilled, and distilled with the teacher in every exact mode.

The quick start's student on digits, with the shipped teacher, a thread for each process. Each mode
is a run of its own, and evaluations are not counted. Modes that wait for nothing of each other may
be run side by side on idle cores (`--modes`); the last call draws what is there.

    python benchmarks/bm_wall_clock.py --modes plain --output output/wall_clock &
    python benchmarks/bm_wall_clock.py --modes own --output output/wall_clock
    python benchmarks/bm_wall_clock.py --modes cached ahead --output output/wall_clock
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Dict, List, Tuple

CONFIGS = {"plain": "quickstart/student.yaml"}
MODES: Dict[str, List[str]] = {
    "plain": [],
    "own": [],
    "ahead": ["DISTILL.TEACHER.AHEAD", "1"],
    "cached": ["DISTILL.TEACHER.CACHE_DIR", "{folder}/cache"],
}
LABELS = {
    "plain": "undistilled",
    "own": "teacher in the student's process",
    "ahead": "teacher ahead",
    "cached": "teacher cached",
}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--modes", nargs="*", choices=list(MODES), default=list(MODES))
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--period", type=int, default=25, help="steps between evaluations")
    parser.add_argument("--output", type=Path, default=Path("output/wall_clock"))
    return parser.parse_args()


def train(mode: str, args: argparse.Namespace) -> None:
    options = [x.format(folder=args.output) for x in MODES[mode]]
    config = CONFIGS.get(mode, "quickstart/distilled.yaml")
    command = [sys.executable, "-W", "ignore", "-m", "d2kd", "train", config, "--quiet",
               "--output", str(args.output / mode), "SOLVER.MAX_ITER", str(args.steps),
               "TEST.EVAL_PERIOD", str(args.period), "DATALOADER.NUM_WORKERS", "0", "SEED", "1",
               *options]  # fmt: skip
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def curve(folder: Path) -> Tuple[List[float], List[float]]:
    """Seconds of training and box AP at every evaluation."""
    rows = [json.loads(x) for x in (folder / "metrics.json").read_text().splitlines()]
    seconds, aps, now, done = [0.0], [0.0], 0.0, 0
    for row in rows:
        if "time" in row:
            now += row["time"] * (row["iteration"] + 1 - done)
            done = row["iteration"] + 1
        if "bbox/AP" in row:
            seconds.append(now)
            aps.append(row["bbox/AP"])
    return seconds, aps


def draw(folder: Path, modes: List[str]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4))
    for mode in modes:
        axes.plot(*curve(folder / mode), marker="o", markersize=3, label=LABELS[mode])
    axes.set_xlabel("seconds of training, evaluations not counted")
    axes.set_ylabel("box AP on validation images")
    axes.legend()
    figure.tight_layout()
    figure.savefig(folder / "wall_clock.png", dpi=110)


def main() -> None:
    args = parse_arguments()
    args.output.mkdir(parents=True, exist_ok=True)
    for mode in args.modes:
        train(mode, args)
    there = [mode for mode in MODES if (args.output / mode / "results.json").is_file()]
    print(f"{'mode':10}{'s/step':>10}{'seconds':>10}{'AP':>8}")
    for mode in there:
        seconds, aps = curve(args.output / mode)
        print(f"{mode:10}{seconds[-1] / args.steps:10.3f}{seconds[-1]:10.0f}{aps[-1]:8.2f}")
    draw(args.output, there)


if __name__ == "__main__":
    main()
