"""Tables and a plot of a plan's results, as markdown, JSON and PNG."""

import json
import math
from typing import Any, List, Sequence

from ..evaluation.error_types import ERROR_TYPES
from ..file_io import write_atomically
from ..text import for_markdown
from .plan import Plan
from .summary import (
    Found,
    ap_of,
    cells_of,
    corruption_values,
    own_ap,
    plot,
    summarize,
)

NOTES = {
    "clean": "AP of COCO (0 to 100).",
    "summary": "AP of COCO (0 to 100). mPC: mean over corruptions and severities; rPC: mPC in % of "
    "the clean AP; drop: clean AP less mPC; last column: mPC less that of *{baseline}*.",
    "corruption": "AP, mean over severity {severities}; in brackets the difference to clean.",
    "shift": "AP on another data set, over the classes that both have; in brackets the clean AP of "
    "these classes above.",
    "attack": "AP on the first {images} images; epsilon in grey levels of 255. `fgsm` is one step, "
    "`projected` {steps} steps of projected gradient ascent from a random start, both on the "
    "detector's own training loss, unrounded.",
    "error": "AP50 that would be gained without the errors of one type (arXiv 2008.08115), and in "
    "brackets their number.",
    "group": "AP by size of the object (square root of the box's area) and by number of objects in "
    "the image; recall at IoU 0.5 by the largest IoU with another object.",
}


def write_report(plan: Plan, found: Found) -> str:
    """Write report.md, report.json and, with corruptions, report.png; returns the markdown."""
    sections = [_summary, _corruptions, _severities, _shifts, _attacks, _errors, _groups]
    lines = [f"# {for_markdown(plan.title)}", ""]
    for section in sections:
        lines += section(plan, found)
    text = "\n".join(lines).rstrip() + "\n"
    summary = {model: summarize(plan, results) for model, results in found.items()}
    data = json.dumps({"summary": summary, "results": found}, indent=1)
    plan.output.mkdir(parents=True, exist_ok=True)
    write_atomically(plan.output / "report.json", lambda path: path.write_text(data))
    write_atomically(plan.output / "report.md", lambda path: path.write_text(text, "utf-8"))
    if cells_of(plan, "corruption"):
        plot(plan, found).savefig(plan.output / "report.png")
    return text


def _summary(plan: Plan, found: Found) -> List[str]:
    if not cells_of(plan, "corruption"):
        rows = [[model, _number(ap_of(results, "clean"))] for model, results in found.items()]
        return _section("Summary", NOTES["clean"], ["", "clean"], rows)
    rows, keys = [], ("clean", "mPC", "rPC", "drop")
    summaries = {model: summarize(plan, results) for model, results in found.items()}
    for model, summary in summaries.items():
        mean, baseline = summary["mPC"], summaries[plan.baseline]["mPC"]
        difference = None
        if mean is not None and baseline is not None and model != plan.baseline:
            difference = mean - baseline
        rows.append([model, *(_number(summary[k]) for k in keys), _number(difference, "+")])
    note = NOTES["summary"].format(baseline=for_markdown(plan.baseline))
    return _section("Summary", note, ["", *keys, "difference"], rows)


def _corruptions(plan: Plan, found: Found) -> List[str]:
    values = {model: corruption_values(plan, results) for model, results in found.items()}
    severities = sorted({cell.options["severity"] for cell in cells_of(plan, "corruption")})
    rows = []
    for name in dict.fromkeys(cell.options["corruption"] for cell in cells_of(plan, "corruption")):
        row = [name]
        for model, results in found.items():
            known = [values[model][name][s] for s in severities if s in values[model][name]]
            mean = sum(known) / len(known) if len(known) == len(severities) else None
            drop = None if mean is None else _number(mean - ap_of(results, "clean"), "+")
            row.append(_number(mean) if drop is None else f"{_number(mean)} ({drop})")
        rows.append(row)
    note = NOTES["corruption"].format(severities=", ".join(map(str, severities)))
    return _section("Corruptions", note, ["", *found], rows)


def _severities(plan: Plan, found: Found) -> List[str]:
    severities = sorted({cell.options["severity"] for cell in cells_of(plan, "corruption")})
    lines = []
    for model, results in found.items() if len(severities) > 1 else ():
        values = corruption_values(plan, results)
        rows = [[name, *(_number(v.get(s)) for s in severities)] for name, v in values.items()]
        lines += _section(f"AP by severity: {model}", "", ["", *map(str, severities)], rows)
    return lines


def _shifts(plan: Plan, found: Found) -> List[str]:
    rows = []
    for cell in cells_of(plan, "shift"):
        known = [results[cell.name] for results in found.values() if cell.name in results]
        if not known:
            continue
        mapping = known[0]["mapping"]
        ignored = [
            f"{len(names)} of the {side}: {', '.join(names)}" if names else f"none of the {side}"
            for side, names in (("detector", mapping["ignored_detector"]),
                                ("data set", mapping["ignored_dataset"]))
        ]  # fmt: skip
        aps = [
            f"{_number(ap_of(x, cell.name))} (from {_number(own_ap(x, mapping))})"
            for x in found.values()
        ]
        counted = str(len(mapping["classes"]))
        rows.append([cell.options["dataset"], counted, "; ".join(ignored), *aps])
    header = ["data set", "classes", "ignored classes", *found]
    return _section("Domain shift", NOTES["shift"], header, rows)


def _attacks(plan: Plan, found: Found) -> List[str]:
    cells = cells_of(plan, "attack")
    if not cells:
        return []
    steps = max(cell.options.get("steps", 1) for cell in cells)
    note = NOTES["attack"].format(images=cells[0].options["images"], steps=steps)
    rows = [
        [cell.name.removeprefix("attack-"), *(_number(ap_of(x, cell.name)) for x in found.values())]
        for cell in cells
    ]
    return _section("Attacks", note, ["attack-epsilon", *found], rows)


def _errors(plan: Plan, found: Found) -> List[str]:
    rows = []
    for kind in (*ERROR_TYPES, "false_positives", "false_negatives"):
        row = [kind.replace("_", " ")]
        for results in found.values():
            clean = results.get("clean", {})
            cost = _number(clean.get("error_cost", {}).get(kind))
            count = clean.get("error_count", {}).get(kind)
            row.append(cost if count is None else f"{cost} ({count})")
        rows.append(row)
    return _section("Errors", NOTES["error"], ["", *found], rows)


def _groups(plan: Plan, found: Found) -> List[str]:
    first = next((x["clean"] for x in found.values() if "clean" in x), None)
    if first is None:
        return []
    rows = []
    for key in ("AP_by_size", "AP_by_objects", "recall_by_overlap"):
        for group in (x for x in first[key] if first["objects"][x]):
            values = [x.get("clean", {}).get(key, {}).get(group) for x in found.values()]
            row = [f"{key.partition('_')[0]}, {group}", str(first["objects"][group])]
            rows.append([*row, *(_number(v) for v in values)])
    return _section("Groups of objects", NOTES["group"], ["", "objects", *found], rows)


def _number(value: Any, sign: str = "") -> str:
    return "-" if value is None or math.isnan(value) else f"{value:{sign}.1f}"


def _section(
    title: str, note: str, header: Sequence[str], rows: Sequence[Sequence[str]]
) -> List[str]:
    if not rows:
        return []
    cells = [[for_markdown(x, 2000) for x in row] for row in (header, *rows)]
    cells.insert(1, ["---"] * len(header))
    table = [f"| {' | '.join(row)} |" for row in cells]
    return [f"## {for_markdown(title)}", "", *([note, ""] if note else []), *table, ""]
