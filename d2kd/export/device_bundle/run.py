"""Detect objects in a photo with a file of `d2kd export`.

Needs numpy, Pillow and onnxruntime alone. Prints class, score and box (XYXY, px) of each detection.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

import numpy as np
import onnxruntime
from PIL import Image, ImageDraw

if __package__:
    from .photo import enlarge, open_image, paste_raw, prepare
else:  # as a program
    from photo import enlarge, open_image, paste_raw, prepare  # type: ignore  # fmt: skip

Data = Dict[str, Any]
HERE = Path(__file__).resolve().parent
KEYS = ("size", "resize", "channels", "pad_value", "dynamic", "multiple", "classes", "num_classes",
        "masks", "best_f1", "score_threshold", "nms_threshold", "topk", "max_detections",
        "detector", "d2kd_version")  # fmt: skip


def load(path: str | Path) -> Tuple[Any, Data]:
    """The session of an .onnx file, and its description; what other tools wrote in is left out."""
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises many kinds
        sys.exit(f"{path} is no ONNX file that onnxruntime opens: {str(error).splitlines()[0]}")
    found = session.get_modelmeta().custom_metadata_map
    try:
        about = {key: json.loads(found[key]) for key in KEYS if key in found}
    except ValueError:
        about = {}
    if not {"size", "channels", "pad_value", "classes"} <= set(about):
        sys.exit(f"{path} is no file of d2kd export: it does not say how to prepare an image.")
    if "classes" not in {x.name for x in session.get_outputs()}:
        sys.exit(f"{path} has all boxes, without NMS: export it without --no-nms.")
    return session, about


def lowest_score(about: Data) -> float:
    """The threshold of the best F1 in validation; 0.5 where the file has none."""
    return about.get("best_f1", {}).get("threshold", 0.5)


def detect(session: Any, about: Data, image: Image.Image, threshold: float) -> Tuple[Any, ...]:
    """Boxes (n, 4) XYXY in px of the image, none empty, scores (n,), class indices (n,), masks.

    Masks are PIL images of the size of `image`, 255 on the object; [] if the file has none.
    """
    padded, scale = prepare(image, about)
    names = ["boxes", "scores", "classes", *(["masks"] if about.get("masks") else [])]
    found = session.run(names, {"image": padded})
    found[0] = np.clip(found[0] / scale, 0, (image.width, image.height) * 2)
    kept = (found[1] >= threshold) & (found[0][:, :2] < found[0][:, 2:]).all(1)  # of the photo
    boxes, scores, classes, *masks = (x[kept] for x in found)
    if masks and about["masks"] == "raw":
        masks = [paste_raw(*x, image.size) for x in zip(masks[0], boxes, strict=True)]
    elif masks:
        masks = [enlarge(mask, image.size, about) for mask in masks[0]]
    return boxes, scores, classes, masks


def as_data(about: Data, found: Tuple[Any, ...]) -> List[Data]:
    """What `detect` returned, as data for JSON: "class", "index", "score", "box" and "mask"."""
    *arrays, masks = found
    names, rows = about["classes"], []
    for box, score, index in zip(*(x.tolist() for x in arrays), strict=True):
        name = names[index] if names else str(index)
        rows.append({"class": name, "index": index, "score": score, "box": box})
    for row, mask in zip(rows, masks, strict=bool(masks)):
        row["mask"] = run_lengths(np.asarray(mask) > 0)
    return rows


def run_lengths(mask: np.ndarray) -> Data:
    """A mask (h, w) as COCO has it: lengths by column of runs of 0 and 1, the first of 0."""
    flat = np.concatenate([[False], mask.flatten("F")])
    ends = np.flatnonzero(flat[1:] != flat[:-1])
    counts = np.diff([0, *ends, mask.size])
    return {"size": list(mask.shape), "counts": counts.tolist()}


def draw(image: Image.Image, rows: Sequence[Data], masks: Sequence[Image.Image]) -> None:
    """Draw masks, boxes and names on an image."""
    for mask in masks:
        image.paste("red", mask=mask.point(lambda x: x // 3))
    pen = ImageDraw.Draw(image)
    for row in rows:
        x, y, *_ = row["box"]
        pen.rectangle(row["box"], outline="red", width=2)
        pen.text((x + 3, y + 1), f"{row['class']} {row['score']:.2f}", fill="red")


def is_same(one: Data, other: Data, tolerances: Data) -> bool:
    """Whether two detections are of one class, and agree within the tolerances."""
    box = np.abs(np.subtract(one["box"], other["box"])).max()
    score = abs(one["score"] - other["score"])
    near = box <= tolerances["box"] and score <= tolerances["score"]
    if one["index"] != other["index"] or not near or ("mask" in one) != ("mask" in other):
        return False
    runs = [x["mask"]["counts"] for x in (one, other) if "mask" in x] or [[], []]
    a, b = (np.repeat(np.arange(len(x)) % 2 == 1, x) for x in runs)  # pixels of the masks
    return bool((a & b).sum() >= tolerances["mask_iou"] * (a | b).sum())


def compare(expected: Data, found: Sequence[Data]) -> Tuple[List[Data], List[Data]]:
    """Expected detections that are missing, and found ones that were not expected.

    One whose score is as near to the threshold as the tolerance of scores may be in neither.
    """
    missing, left, tolerances = [], list(found), expected["tolerances"]
    for one in expected["detections"]:
        same = next((i for i, x in enumerate(left) if is_same(one, x, tolerances)), None)
        missing.append(one) if same is None else left.pop(same)
    sure = expected["threshold"] + tolerances["score"]
    return [x for x in missing if x["score"] > sure], [x for x in left if x["score"] > sure]


def check(model: str | Path, folder: Path = HERE) -> str:
    """Compare what a file finds in the example with what is expected; SystemExit if it differs."""
    expected = json.loads((folder / "expected.json").read_text("utf-8"))
    session, about = load(model)
    image = open_image(folder / expected["image"])
    found = as_data(about, detect(session, about, image, expected["threshold"]))
    missing, added = compare(expected, found)
    count, limits = len(expected["detections"]), json.dumps(expected["tolerances"])
    if missing or added:
        sys.exit(
            f"{model} does not find what was expected in {expected['image']}: {len(missing)} of "
            f"{count} detections are missing, {len(added)} are others, at tolerances of {limits}"
        )
    return f"as expected: {count} detections in {expected['image']}, within {limits}"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photo", nargs="?")
    parser.add_argument("--model", default=HERE / "model.onnx", help="default: model.onnx here")
    parser.add_argument("--draw", metavar="FILE", help="draw the detections on a copy")
    parser.add_argument("--json", metavar="FILE", help="write the detections, and masks, as data")
    parser.add_argument("--threshold", type=float, help="lowest score; default: the file's own")
    parser.add_argument("--check", action="store_true", help="find what expected.json has?")
    args = parser.parse_args(arguments)
    if bool(args.photo) == args.check:
        parser.error("give a PHOTO, or --check")
    if args.check:
        return print(check(args.model))
    run(args)


def check_files(args: argparse.Namespace) -> None:
    """SystemExit if a file to write is one that is read, or of no kind that can be drawn."""
    kinds = {x for x, name in Image.registered_extensions().items() if name in Image.SAVE}
    read = {Path(x).resolve() for x in (args.photo, args.model)}
    for option, name in (("--draw", args.draw), ("--json", args.json)):
        if name and Path(name).resolve() in read:
            sys.exit(f"{option} {name} would overwrite what is read: name another file")
    if args.draw and Path(args.draw).suffix.lower() not in kinds:
        sys.exit(f"--draw {args.draw}: end the name with .png or .jpg")


def run(args: argparse.Namespace) -> None:
    """Detect in a photo; draw, write and print what was found."""
    check_files(args)
    session, about = load(args.model)
    threshold = lowest_score(about) if args.threshold is None else args.threshold
    image = open_image(args.photo)
    found = detect(session, about, image, threshold)
    rows = as_data(about, found)
    try:
        write(args, image, {"threshold": threshold, "detections": rows}, found[3])
    except OSError as error:
        sys.exit(f"{error.filename or args.draw} cannot be written: {error.strerror or error}")
    print(f"{len(rows)} detections with a score of {threshold:g} or more", file=sys.stderr)
    for row in rows:
        name = "".join(x if x.isprintable() else "?" for x in row["class"])
        print(f"{name} {row['score']:.4f} " + " ".join(f"{x:.2f}" for x in row["box"]))


def write(
    args: argparse.Namespace, image: Image.Image, found: Data, masks: Sequence[Image.Image]
) -> None:
    """The files that --json and --draw name."""
    if args.json:
        Path(args.json).write_text(json.dumps({"image": str(args.photo), **found}), "utf-8")
    if args.draw:
        draw(image, found["detections"], masks)
        image.save(args.draw)


if __name__ == "__main__":
    main()
