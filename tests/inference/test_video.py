"""Videos: turned ones, cut ones and those without a frame."""

import cv2
import numpy as np
import pytest

from d2kd.errors import ConfigError
from d2kd.inference.video import convert_video, video_path


def video(path, frames=20, code="mp4v"):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*code), 10.0, (64, 48))
    rng = np.random.default_rng(0)
    for _ in range(frames):
        writer.write(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8))
    writer.release()
    return path


def test_every_frame_is_drawn(tmp_path):
    source, target = video(tmp_path / "a.mp4"), tmp_path / "out" / "a.mp4"
    assert convert_video(source, target, lambda frame: frame[:, :, ::-1]) == (20, 20)
    assert cv2.VideoCapture(str(target)).get(cv2.CAP_PROP_FRAME_COUNT) == 20


def test_a_cut_video_says_how_many_frames_there_should_be(tmp_path):
    source = video(tmp_path / "a.avi", code="MJPG")
    source.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
    count, stated = convert_video(source, tmp_path / "b.mp4", lambda frame: frame)
    assert 0 < count < 20
    assert stated in (0, 20) or stated > count


def test_no_video_of_the_users_is_written_over(tmp_path):
    """One that was drawn here is, and that plays on."""
    source, target = video(tmp_path / "a.mp4"), tmp_path / "out" / "a.mp4"
    for _ in range(2):
        assert video_path(source, tmp_path / "out") == target
        convert_video(source, target, lambda frame: frame)
    assert convert_video(target, tmp_path / "b.mp4", lambda frame: frame) == (20, 20)
    for content in (b"mine", source.read_bytes()):
        target.write_bytes(content)
        with pytest.raises(ConfigError, match=r"out/a\.mp4 exists and is no video that d2kd"):
            video_path(source, tmp_path / "out")


@pytest.mark.parametrize("content", [b"", b"no video at all"])
def test_without_a_frame_nothing_is_written(tmp_path, content):
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(ConfigError, match=r"a\.mp4 cannot be read as a video"):
        convert_video(tmp_path / "a.mp4", tmp_path / "out" / "a.mp4", lambda frame: frame)
    assert not (tmp_path / "out").exists()


def test_two_videos_have_two_names(tmp_path):
    names = {video_path(tmp_path / x, tmp_path / "out").name for x in ("a.mp4", "a.avi", "a.MOV")}
    assert names == {"a.mp4", "a.avi.mp4", "a.MOV.mp4"}
