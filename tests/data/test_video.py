"""Videos: what is written is read again."""

import os
import sys

import numpy as np
import pytest

from ms_detr.data.images import ImageError
from ms_detr.data.video import open_video, write_video
from ms_detr.errors import MissingPackageError


def frame(number: int, height: int = 48, width: int = 64) -> np.ndarray:
    """Red rises, green falls from frame to frame, blue stays."""
    return np.full((height, width, 3), (20 * number, 200 - 20 * number, 60), np.uint8)


@pytest.mark.parametrize(("height", "width"), [(48, 64), (49, 65), (1, 1)])
def test_frames_come_back(tmp_path, height, width):
    with write_video(tmp_path / "a clip ü.mp4", 12.5) as add:
        for number in range(9):
            add(frame(number, height, width))
    assert [path.name for path in tmp_path.iterdir()] == ["a clip ü.mp4"]
    with open_video(tmp_path / "a clip ü.mp4") as video:
        assert (video.rate, video.count) == (12.5, 9)
        frames = list(video.frames)
    assert len(frames) == 9
    for number, one in enumerate(frames):
        assert one.shape == (height + height % 2, width + width % 2, 3) and one.dtype == np.uint8
        wanted = frame(number)[0, 0].astype(int)
        assert np.abs(one.reshape(-1, 3).astype(int) - wanted).max() <= 12  # the codec's loss


def test_nothing_half_written(tmp_path):
    with pytest.raises(KeyboardInterrupt), write_video(tmp_path / "a.mp4", 10) as add:
        add(frame(0))
        raise KeyboardInterrupt
    with pytest.raises(ImageError, match="no frame"), write_video(tmp_path / "a.mp4", 10):
        pass
    assert not list(tmp_path.iterdir())


def test_what_is_no_video(tmp_path, capfd):
    (tmp_path / "text.mp4").write_text("hello\n" * 100)
    (tmp_path / "empty.mp4").touch()
    with write_video(tmp_path / "a.mp4", 10) as add:
        add(frame(0))
    content = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: len(content) // 2])
    for name in ("text.mp4", "empty.mp4", "cut.mp4"):
        with pytest.raises(ImageError, match=f"{name} can't be read as a video"):  # noqa: SIM117
            with open_video(tmp_path / name):
                pass
    with pytest.raises(FileNotFoundError, match="no video file gone.mp4"), open_video("gone.mp4"):
        pass
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(ImageError, match="is a named pipe"), open_video(tmp_path / "pipe.mp4"):
        pass
    assert capfd.readouterr().err == ""


def test_without_opencv(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingPackageError, match="pip install opencv-python-headless"):  # noqa: SIM117
        with open_video(tmp_path / "a.mp4"):
            pass
