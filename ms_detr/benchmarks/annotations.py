"""What a large annotation file costs: start-up, memory, the first batch, every loader process."""

from __future__ import annotations

import multiprocessing
import os
import re
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..data import DetrMapper, build_train_loader, coco_dataset

NAME = "ms_detr_benchmark_annotations"
CATEGORIES = 365  # of Objects365
HEIGHT, WIDTH = 48, 64
BATCH = 8
BATCHES = 20  # that are taken before memory is looked at
CHUNK = 10_000  # images whose entries are written at a time
LINKS = 30_000  # names of one image file, of which file systems allow 65,000


def measure_annotations(
    images: int,
    objects: float = 12.5,
    workers: Sequence[int] = (0, 2, 4),
    folder: str | None = None,
) -> list[dict[str, Any]]:
    """Load a generated dataset for training, each time in a new process.

    Args:
        images: of which every one has a file, links to a small one.
        objects: an image on average.
        workers: numbers of loader processes; the first start has as many as the first number.
        folder: in which a folder is made and removed again; None takes the system's.

    Returns:
        A dict a start, of which the first reads the file: seconds until the dataset is loaded, and
        from there to the first batch; megabytes of the process before, and at most; megabytes that
        each loader process has for itself.
    """
    with TemporaryDirectory(dir=folder, prefix="ms_detr_annotations_") as root:
        size = write_dataset(Path(root), images, objects)
        rows = []
        for number, count in enumerate((workers[0], *workers)):
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(1, context) as pool:
                found = pool.submit(_measure, root, count).result()
            start = "later" if number else f"first, of {size * 1e-6:.0f} MB"
            rows.append({"start": start, "loader processes": count, **found})
    return rows


def write_dataset(root: Path, images: int, objects: float) -> int:
    """Write image files and annotations.json, without ever holding them. Returns its bytes."""
    _write_images(root / "images", images)
    rng = np.random.default_rng(0)
    path = root / "annotations.json"
    with path.open("w") as file:
        file.write('{"images": [')
        for first in range(0, images, CHUNK):
            file.write(", " if first else "")
            file.write(", ".join(map(_image, range(first, min(first + CHUNK, images)))))
        file.write('], "annotations": [')
        count = 0
        for first in range(0, images, CHUNK):
            numbers = np.arange(first, min(first + CHUNK, images))
            image_of = np.repeat(numbers, rng.poisson(objects, len(numbers)))
            lines = map(_annotation, range(count, 2**63), image_of.tolist(), *_drawn(rng, image_of))
            text = ", ".join(lines)
            file.write(", " if count and text else "")
            file.write(text)
            count += len(image_of)
        categories = ", ".join(f'{{"id": {k}, "name": "class {k}"}}' for k in range(CATEGORIES))
        file.write(f'], "categories": [{categories}]}}')
    return path.stat().st_size


def _write_images(folder: Path, count: int) -> None:
    folder.mkdir()
    image = Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    for number in range(count):
        path = folder / _name(number)
        if number % LINKS == 0:
            image.save(path)
            first = path
        else:
            os.link(first, path)


def _name(number: int) -> str:
    return f"{number:07d}.png"


def _image(number: int) -> str:
    return (
        f'{{"id": {number}, "file_name": "{_name(number)}", "height": {HEIGHT}, "width": {WIDTH}}}'
    )


def _drawn(rng: np.random.Generator, image_of: np.ndarray) -> list[list]:
    """Return x, y, width, height and category of as many objects."""
    extent = rng.uniform(4, 40, (len(image_of), 2)).round(2)
    start = (rng.uniform(0, 1, extent.shape) * ((WIDTH, HEIGHT) - extent)).round(2)
    categories = rng.integers(CATEGORIES, size=len(image_of))
    return [column.tolist() for column in (*start.T, *extent.T, categories)]


def _annotation(
    number: int, image: int, x: float, y: float, width: float, height: float, category: int
) -> str:
    return (
        f'{{"id": {number}, "image_id": {image}, "category_id": {category}, '
        f'"bbox": [{x}, {y}, {width}, {height}], "area": {width * height:.2f}, "iscrowd": 0}}'
    )


def _measure(root: str, workers: int) -> dict[str, float]:
    """Load the dataset and take batches, in this process."""
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # as the engine starts loaders
    before = _memory("status", "VmRSS")
    start = time.perf_counter()
    records = coco_dataset(
        NAME, Path(root, "images"), Path(root, "annotations.json"), check_images=False
    )
    loaded = time.perf_counter()
    loader = build_train_loader(records, DetrMapper([]), BATCH, workers)
    batches = iter(loader)
    next(batches)
    first = time.perf_counter()
    for _ in range(BATCHES):
        next(batches)
    own = [_private(process.pid) for process in multiprocessing.active_children()]
    return {
        "loaded s": loaded - start,
        "first batch s": first - loaded,
        "MB before": before,
        "peak MB": _memory("status", "VmHWM"),
        "own MB a loader process": float(np.mean(own)) if own else 0.0,
    }


def _private(process: int | None) -> float:
    keys = ("Private_Clean", "Private_Dirty")
    return sum(_memory("smaps_rollup", key, process) for key in keys)


def _memory(file: str, key: str, process: int | str | None = "self") -> float:
    """Return megabytes (1e6) that Linux tells of a process."""
    found = re.search(rf"{key}:\s+(\d+) kB", Path(f"/proc/{process}/{file}").read_text())
    return int(found[1]) * 1.024e-3 if found else 0.0
