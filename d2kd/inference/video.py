"""Detections on a video; the one reader of videos."""

import math
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np

from ..data.image_files import DRAWING
from ..errors import ConfigError
from ..text import plain

VIDEOS = {".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"}
# the end of each mp4 that is drawn here: a box of it that players skip
_MARK = struct.pack(">I4s", 8 + len(DRAWING), b"free") + DRAWING.encode()


def video_path(source: Path, output: Path) -> Path:
    """Where the drawn video goes: ``NAME.mp4``, or ``NAME.avi.mp4`` and so on.

    Raises:
        ConfigError: `output` is no folder, or the one of the video, or a video of the user's would
            be lost.
    """
    if output.exists() and not output.is_dir():
        raise ConfigError(f"--output {plain(output)} is a file: name a folder.")
    if output.resolve() == source.resolve().parent:
        raise ConfigError(
            f"--output {plain(output)} is the folder of the video: name another, such as "
            f"{plain(output / 'predictions')}."
        )
    target = output / (source.name if source.suffix == ".mp4" else f"{source.name}.mp4")
    if target.exists() and not _is_drawn(target):
        raise ConfigError(
            f"{plain(target)} exists and is no video that d2kd predict drew to its end: take it "
            "away, or name another folder with --output."
        )
    return target


def _is_drawn(path: Path) -> bool:
    if not path.is_file() or path.stat().st_size < len(_MARK):
        return False
    with path.open("rb") as file:
        file.seek(-len(_MARK), os.SEEK_END)
        return file.read() == _MARK


def convert_video(
    source: Path, target: Path, draw: Callable[[np.ndarray], np.ndarray]
) -> tuple[int, int]:
    """Draw on every frame and write them as an mp4.

    Args:
        source: the video.
        target: the file to write; its folder is made.
        draw: a frame (H, W, 3) uint8 BGR to (H, W, 3) uint8 RGB.

    Returns:
        Frames that were read, and frames that the file's head states, 0 if it states none.

    Raises:
        ConfigError: OpenCV cannot read a frame, or cannot write this video.
    """
    video = cv2.VideoCapture(str(source))
    try:
        rate, stated = (video.get(x) for x in (cv2.CAP_PROP_FPS, cv2.CAP_PROP_FRAME_COUNT))
        count = _write(_frames(video), target, draw, rate if 0 < rate <= 1000 else 25.0)
    finally:
        video.release()
    if not count:
        raise ConfigError(f"{plain(source)} cannot be read as a video: OpenCV finds no frame.")
    return count, int(stated) if math.isfinite(stated) and stated > 0 else 0


def _frames(video: cv2.VideoCapture) -> Iterator[np.ndarray]:
    while (read := video.read())[0]:
        yield read[1]


def _write(frames: Iterator[np.ndarray], target: Path, draw: Callable, rate: float) -> int:
    writer, count = None, 0
    for frame in frames:
        size = frame.shape[1::-1]
        writer = writer or _writer(target, rate, size)
        writer.write(cv2.resize(draw(frame), size)[:, :, ::-1].copy())
        count += 1
    if writer:
        writer.release()
        with target.open("ab") as file:
            file.write(_MARK)
    return count


def _writer(target: Path, rate: float, size: tuple[int, ...]) -> cv2.VideoWriter:
    target.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(target), cv2.VideoWriter.fourcc(*"mp4v"), rate, size)
    if not writer.isOpened():
        raise ConfigError(f"{plain(target)} cannot be written: OpenCV has no mp4 encoder here.")
    return writer
