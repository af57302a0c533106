"""Video files, read and written by OpenCV, which Detectron2 needs anyway."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import MissingPackageError, SystemLimitError
from ..files import atomic_path
from .images import ImageError, expect_file

CODEC = "mp4v"  # MPEG-4 Part 2: what builds of OpenCV without x264 can write, too
FALLBACK_RATE = 25.0  # frames a second, of a file that tells none


@dataclass(frozen=True)
class Video:
    """A video that is open.

    Attributes:
        rate: frames a second.
        count: of frames, as the file tells; 0 where it doesn't.
        frames: (H, W, 3) uint8, RGB, turned upright by the file's rotation; to be read once.
    """

    rate: float
    count: int
    frames: Iterator[np.ndarray]


@contextmanager
def open_video(path: str | os.PathLike[str]) -> Iterator[Video]:
    """Open a video file; a frame is decoded when it is asked for.

    Raises:
        MissingPackageError: OpenCV isn't installed.
        MissingFileError: there is no such file.
        ImageError: it can't be read as a video.
    """
    cv2 = _opencv()
    expect_file(path, "a video")
    capture = cv2.VideoCapture(os.fspath(path), cv2.CAP_FFMPEG)
    try:
        if not capture.isOpened():
            raise ImageError(f"{path} can't be read as a video")
        rate = capture.get(cv2.CAP_PROP_FPS)
        count = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        rate = rate if 0 < rate < 1000 else FALLBACK_RATE
        yield Video(rate, max(0, int(count)), _frames(capture, path))
    finally:
        capture.release()


def _frames(capture: Any, path: str | os.PathLike[str]) -> Iterator[np.ndarray]:
    is_there, frame = capture.read()
    if not is_there:
        raise ImageError(f"{path} has no frame that can be read")
    while is_there:
        yield frame[:, :, ::-1]
        is_there, frame = capture.read()


@contextmanager
def write_video(path: Path, rate: float) -> Iterator[Callable[[np.ndarray], None]]:
    """Yield what adds a frame, (H, W, 3) uint8 RGB, all of one size, to an MP4 file.

    The file is complete or not there; sides of odd length get a pixel more, which the format needs.

    Raises:
        OSError: the system can't write there.
    """
    cv2 = _opencv()
    writer: Any = None
    with atomic_path(path) as partial:
        # OpenCV tells the format by the suffix.
        unfinished = partial.with_name(f"{partial.name}.mp4")

        def add(frame: np.ndarray) -> None:
            nonlocal writer
            frame = np.pad(frame, [(0, n % 2) for n in frame.shape[:2]] + [(0, 0)], "edge")
            if writer is None:
                height, width = frame.shape[:2]
                code = cv2.VideoWriter_fourcc(*CODEC)
                writer = cv2.VideoWriter(
                    os.fspath(unfinished), cv2.CAP_FFMPEG, code, rate, (width, height)
                )
                if not writer.isOpened():
                    raise SystemLimitError(f"{path}: OpenCV can't write a video there")
            writer.write(np.ascontiguousarray(frame[:, :, ::-1]))

        try:
            yield add
            if writer is None:
                raise ImageError(f"{path}: there is no frame to be written")
            writer.release()
            os.replace(unfinished, partial)
        finally:
            if writer is not None:
                writer.release()
            unfinished.unlink(missing_ok=True)


def _opencv() -> Any:
    # Its own complaints of broken files, and FFmpeg's, would stand beside ours.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    try:
        import cv2
    except ImportError as error:
        raise MissingPackageError(
            "videos need OpenCV: python -m pip install opencv-python-headless"
        ) from error
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    return cv2
