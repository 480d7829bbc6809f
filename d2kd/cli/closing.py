"""The last lines of `d2kd train` and `d2kd eval`: what came out, and what to type next."""

import json
import os
from argparse import Namespace
from pathlib import Path
from typing import Any, Callable, Dict

import click

from .base import echo

_METRIC = "bbox/AP"


def with_console(function: Callable) -> Callable:
    """Decorator: the options --quiet and --json, for `console_of`."""
    text = "Print the result as json; warnings go to stderr, the rest to log.txt."
    function = click.option("--json", "as_json", is_flag=True, help=text)(function)
    text = "Print warnings and the result alone; log.txt has all."
    return click.option("--quiet", is_flag=True, help=text)(function)


def console_of(quiet: bool, as_json: bool) -> str:
    """What a run shows, see `d2kd.engine.terminal.set_up`."""
    return "json" if as_json else "quiet" if quiet else ""


def close_training(args: Namespace) -> None:
    """Print AP, also of the plain run beside it, the best checkpoint and the next command."""
    from ..checkpoint.of_run import BEST, read_best
    from ..file_io import read_yaml
    from ..heads.tokens_file import FILE as TOKENS_FILE
    from ..text import shell

    folder = _output(args)
    config, best = read_yaml(folder / "config.yaml"), read_best(folder)
    found = {"run": str(folder), "iterations": config["SOLVER"]["MAX_ITER"],
             **_results(folder / "results.json")}  # fmt: skip
    if best:
        found["best"] = {"checkpoint": str(folder / f"{BEST}.pth"), **best}
    distils = config["MODEL"]["META_ARCHITECTURE"] == "Distiller"
    plain = _plain_run(folder) if distils and found["AP"] is not None else {}
    found |= {"plain": plain} if plain else {}
    compare = shell("d2kd", "report", plain.get("run"), folder)
    found["next"] = compare if plain else shell("d2kd", "predict", folder, "FOLDER_OF_PHOTOS")
    if config["MODEL"]["META_ARCHITECTURE"] == "TokenLearner":
        teacher = config["DISTILL"]["TEACHER"]
        found["tokens"] = str(folder / TOKENS_FILE)
        given = ["STUDENT", "--teacher", teacher["CONFIG_FILES"][0]]
        given += [x for name in teacher["WEIGHTS"] if name for x in ("--teacher-weights", name)]
        given += ["--distill", "MasKD", "DISTILL.MasKD.TOKENS", folder]
        found["next"] = shell("d2kd", "train", *given)
    _print(args, found)


def _plain_run(folder: Path) -> Dict[str, Any]:
    """The counterpart of a distilled run among the runs beside it, with its AP; maybe empty."""
    paths = sorted(x.parent for x in folder.resolve().parent.glob("*/run.json"))
    if len(paths) < 2:
        return {}
    from ..report.pairs import compare_runs
    from ..report.runs import read_run

    runs = [read_run(x, os.path.relpath(x)) for x in paths]
    own = [run for run in runs if run.folder == folder.resolve()]
    others = [run for run in runs if not run.distilled]
    pairs = [pair for x in compare_runs([*own, *others]) for pair in x.equal]
    return {"run": pairs[0][1].name, "AP": pairs[0][1].results[_METRIC]} if pairs else {}


def close_evaluation(args: Namespace) -> None:
    """Print AP, and where the other measures are."""
    from ..engine.run_folder import holds_run

    folder = _output(args)
    path = (folder / "eval" if holds_run(folder) else folder) / "results.json"
    _print(args, {"file": str(path), **_results(path)})


def close_published(folder: Path, console: str) -> None:
    """Print AP, and where the other measures and the pictures are."""
    path = folder / "results.json"
    _print(Namespace(console=console), {"file": str(path), **_results(path)})
    if console != "json":
        echo(f"pictures: {', '.join(str(x) for x in sorted(folder.glob('[1-4].png')))}")


def close_file(folder: Path, results: Dict[str, Any], console: str) -> None:
    """Print AP, AP50 and the AP of each class of an exported file, its latency and its size."""
    path, file = folder / "results.json", results["file"]
    _print(Namespace(console=console), {"file": str(path), **_results(path)})
    if console == "json":
        return
    bbox = results.get("bbox", {})
    classes = [f"{k[3:]} {v:.2f}" for k, v in bbox.items() if k.startswith("AP-")]
    if bbox:
        echo("; ".join([f"AP50 {bbox['AP50']:.2f}", *filter(None, [", ".join(classes)])]))
    times = [f"{k} {v['median']:.1f} (95 %: {v['p95']:.1f})" for k, v in file["ms"].items()]
    echo(f"{file['MB']:.1f} MB; ms per image on one CPU thread, median: {', '.join(times)}")


def _results(path: Path) -> Dict[str, Any]:
    """Box AP, and all measures of a results.json; none where nothing was evaluated."""
    from ..file_io import read_json

    results = read_json(path)["results"] if path.is_file() else {}
    return {"AP": results.get("bbox", {}).get("AP"), "results": results}


def _output(args: Namespace) -> Path:
    from ..config.loading import load_config
    from ..engine.early_log import held_back

    with held_back():  # the run has said it
        return Path(load_config(args.config_file, args.opts).OUTPUT_DIR)


def _print(args: Namespace, found: Dict[str, Any]) -> None:
    if args.console == "json":
        click.echo(json.dumps(found, default=str))
        return
    ap = "AP is not known" if found["AP"] is None else f"AP {found['AP']:.2f}"
    ap = f"tokens in {found['tokens']}" if "tokens" in found else ap
    if plain := found.get("plain"):
        more = found["AP"] - plain["AP"]
        ap += f", {more:+.2f} to the plain run {plain['run']} ({plain['AP']:.2f})"
    echo(f"{found['run']}: {found['iterations']} steps, {ap}" if "run" in found else
         f"{ap}, written to {found['file']}")  # fmt: skip
    if best := found.get("best"):
        reached = f"{best['metric']} {best['value']:.2f} at step {best['step']}"
        echo(f"best: {best['checkpoint']} ({reached})")
    if "next" in found:
        echo(f"next: {found['next']}")
