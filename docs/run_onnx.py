"""Detect objects with an exported file: python run_onnx.py MODEL PHOTO [DRAWN [THRESHOLD]]

Needs numpy, Pillow and onnxruntime, and nothing else. Prints the detections and draws them, with
their masks if the file has some, from the score on at which F1 was best in validation, or from
THRESHOLD on.
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageDraw, ImageOps


def load(path):
    """The session, and the description of the file."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    return session, {key: json.loads(value) for key, value in metadata.items()}


def prepare(image, about):
    """A PIL image as (1, 3, H, W) float32, resized to fit and padded right and below."""
    height, width = about["size"]
    scale = min(height / image.height, width / image.width)
    w, h = (max(1, round(side * scale)) for side in image.size)
    pixels = np.asarray(image.resize((w, h), Image.Resampling.BILINEAR), np.float32)
    if about["channels"] == "BGR":
        pixels = pixels[:, :, ::-1]
    if "size" in about.get("dynamic", []):  # no more padding than the detector needs
        height, width = (-(-x // about["multiple"]) * about["multiple"] for x in (h, w))
    padded = np.empty((1, 3, height, width), np.float32)
    padded[:] = np.reshape(about["pad_value"], (1, 3, 1, 1))
    padded[0, :, :h, :w] = pixels.transpose(2, 0, 1)
    return padded, scale


def lowest_score(about):
    """The threshold of the best F1 in validation; 0.5 where the file has none."""
    return about.get("best_f1", {}).get("threshold", 0.5)


def detect(session, about, image, threshold):
    """Boxes (n, 4) XYXY in pixels of the image, scores (n,), class indices (n,), and masks.

    Masks are PIL images of the size of `image`, 255 on the object; [] if the file has none.
    """
    padded, scale = prepare(image, about)
    names = ["boxes", "scores", "classes", *(["masks"] if about.get("masks") else [])]
    found = session.run(names, {"image": padded})
    boxes, scores, classes, *masks = (x[found[1] >= threshold] for x in found)
    boxes = np.clip(boxes / scale, 0, (image.width, image.height) * 2)
    paste = paste_raw if about.get("masks") == "raw" else enlarge
    if masks:
        masks = [paste(*x, image.size, scale) for x in zip(masks[0], boxes, strict=True)]
    return boxes, scores, classes, masks


def paste_raw(mask, box, size, _):
    """Probabilities (M, M) of a box as a mask of the whole image."""
    (x0, y0), (w, h) = box[:2], (box[2:] - box[:2]) / len(mask)  # of a cell, px
    affine = 1 / w, 0, 1 - x0 / w, 0, 1 / h, 1 - y0 / h  # 1: a rim of zeros
    method, bilinear = Image.Transform.AFFINE, Image.Resampling.BILINEAR
    whole = Image.fromarray(np.pad(mask, 1)).transform(size, method, affine, bilinear)
    return Image.fromarray(np.asarray(whole) >= 0.5).convert("L")


def enlarge(mask, _, size, scale):
    """A mask (H, W) of the prepared image as one of the image."""
    w, h = (max(1, round(side * scale)) for side in size)
    return Image.fromarray(mask[:h, :w]).convert("L").resize(size, Image.Resampling.NEAREST)


def main(model, photo, output="detections.png", threshold=None):
    session, about = load(model)
    threshold = float(threshold or lowest_score(about))
    print(f"score threshold {threshold:g}", file=sys.stderr)
    image = ImageOps.exif_transpose(Image.open(photo)).convert("RGB")
    *found, masks = detect(session, about, image, threshold)
    if not len(found[0]):
        print("no object with such a score", file=sys.stderr)
    for mask in masks:
        image.paste("red", mask=mask.point(lambda x: x // 3))
    draw = ImageDraw.Draw(image)
    for box, score, index in zip(*found, strict=True):
        name = about["classes"][index] if about["classes"] else index
        print(f"{name} {score:.4f} " + " ".join(f"{x:.2f}" for x in box))
        draw.rectangle(box.tolist(), outline="red", width=2)
        draw.text((box[0] + 3, box[1] + 1), f"{name} {score:.2f}", fill="red")
    image.save(output)


if __name__ == "__main__":
    main(*sys.argv[1:])
