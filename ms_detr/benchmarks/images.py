"""What the look at a dataset's image files costs before a training."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..data.image_headers import THREADS, examine

HEIGHT, WIDTH = 480, 640  # as most of COCO's
KINDS = {"JPEG": "jpg", "PNG": "png"}


def write_images(folder: Path, files: int, suffix: str = "jpg", grain: int = 16) -> list[str]:
    """Write files of the same image, noise of COCO's size, and return their paths.

    Args:
        grain: pixels of its side: what is finer makes larger files, which take longer to decode.
    """
    shape = (HEIGHT // grain, WIDTH // grain, 3)
    noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    paths = [folder / f"{number}.{suffix}" for number in range(files)]
    image = Image.fromarray(noise).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    image.save(paths[0])
    for path in paths[1:]:
        path.write_bytes(paths[0].read_bytes())
    return [str(path) for path in paths]


def measure_images(files: int = 2000, threads: int | None = None) -> list[dict]:
    """Time a first look, alone and with threads, and a later one, on files in the system's cache.

    Args:
        files: of each kind.
        threads: None for those of a training.

    Returns:
        A dict a kind of file and way: seconds of the CPU and of the clock per 100,000 files.
    """
    rows = []
    threads = threads or THREADS
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as folder:
            paths = write_images(Path(folder), files, KINDS[kind])
            found = examine(paths)
            rows += [
                _row(kind, "first, 1 thread", paths, {}, 1),
                _row(kind, f"first, {threads} threads", paths, {}, threads),
                _row(kind, "again", paths, found, threads),
            ]
    return rows


def _row(kind: str, way: str, paths: list[str], known: dict, threads: int) -> dict[str, Any]:
    cpu, clock = time.process_time(), time.perf_counter()
    examine(paths, known, threads)
    scale = 100_000 / len(paths)
    return {
        "files": kind,
        "look": way,
        "CPU s": (time.process_time() - cpu) * scale,
        "s": (time.perf_counter() - clock) * scale,
    }
