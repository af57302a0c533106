"""How many images a second a config's training loader delivers, by the number of its processes."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from detectron2.config import LazyCall as L
from omegaconf import DictConfig, OmegaConf

from ..config import load
from ..data import coco_dataset
from ..engine.building import build
from ..errors import ConfigError
from .images import HEIGHT, WIDTH, write_images

TRAIN = "dataloader.train"
OBJECTS = 7  # of an image, as COCO's on average
VERTICES = 32  # of an outline
GRAIN = 2  # makes files of 150 kB, about COCO's mean


def measure_loading(
    config: str,
    overrides: Sequence[str] = (),
    workers: Sequence[int] = (0, 1, 2),
    images: int = 200,
    rounds: int = 3,
) -> list[dict[str, Any]]:
    """Time a config's training loader, turn by turn in each round, on generated image files.

    They are JPEG files of COCO's size with seven objects each. All else is the config's: mapper,
    augmentations, batch size, and masks where it learns them.

    Args:
        workers: numbers of loader processes; 0 loads in this process.
        images: of a turn, at least. The first batch of each process isn't counted.

    Returns:
        A dict a number of loader processes: median images a second; the median over the rounds of
        its ratio to the first number's; images a second of one process; median milliseconds of a
        CPU, of all processes together, for an image. These hold on a busy machine, too.

    Raises:
        ConfigError: the config has no loader of images of a dataset.
    """
    cfg = load(config, overrides)
    for key in ("dataset", "num_workers", "total_batch_size"):
        if OmegaConf.select(cfg, f"{TRAIN}.{key}") is None:
            raise ConfigError(f"{config} has no {TRAIN}.{key}, which the benchmark sets or reads")
    with TemporaryDirectory(prefix="ms_detr_loading_") as folder:
        files = max(images, cfg.dataloader.train.total_batch_size)
        masks = bool(cfg.dataloader.train.dataset.get("masks"))
        masks = bool(cfg.dataloader.train.dataset.get("masks"))
        cfg.dataloader.train.dataset = _made(Path(folder), files, masks)
        turns = [[_take(cfg, count, images) for count in workers] for _ in range(rounds)]
    rows = []
    for index, count in enumerate(workers):
        mine = [turn[index] for turn in turns]
        rate = statistics.median(found.rate for found in mine)
        rows.append(
            {
                "loader processes": count,
                "images/s": rate,
                "ratio": statistics.median(turn[index].rate / turn[0].rate for turn in turns),
                "images/s a process": rate / max(count, 1),
                "CPU ms an image": 1e3 * statistics.median(found.cpu for found in mine),
            }
        )
    return rows


class _Turn(NamedTuple):
    """Images a second, and seconds of a CPU for an image."""

    rate: float
    cpu: float


def _take(cfg: DictConfig, workers: int, images: int) -> _Turn:
    """Take images from a loader that is started for it."""
    cfg.dataloader.train.num_workers = workers
    loader = build(cfg, TRAIN)
    batches = iter(loader)
    # Processes that begin together deliver together: as many batches of each, the first uncounted.
    together = max(workers, 1)
    for _ in range(together):
        size = len(next(batches))
    count = together * math.ceil(images / (size * together))
    start, cpu = time.perf_counter(), _cpu_seconds()
    for _ in range(count):
        next(batches)
    seconds, cpu = time.perf_counter() - start, _cpu_seconds() - cpu
    return _Turn(count * size / seconds, cpu / (count * size))


def _cpu_seconds() -> float:
    """Seconds of a CPU that this process and its children have taken; NaN if not told by Linux."""
    seconds = time.process_time()
    for child in multiprocessing.active_children():
        stat = Path(f"/proc/{child.pid}/stat")
        if not stat.exists():
            return math.nan
        user, system = stat.read_text().rpartition(")")[2].split()[11:13]
        seconds += (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
    return seconds


def _made(folder: Path, count: int, masks: bool) -> DictConfig:
    """Write a dataset and return its node, for a config."""
    write_images(folder, count, grain=GRAIN)
    rng = np.random.default_rng(0)
    objects = [_object(rng, image) for image in range(count) for _ in range(OBJECTS)]
    annotations = folder / "annotations.json"
    content = {
        "images": [
            {"id": i, "file_name": f"{i}.jpg", "height": HEIGHT, "width": WIDTH}
            for i in range(count)
        ],
        "categories": [{"id": 1, "name": "ellipse"}],
        "annotations": [{"id": i, **thing} for i, thing in enumerate(objects)],
    }
    annotations.write_text(json.dumps(content))
    return L(coco_dataset)(
        name=folder.name,  # no other run's
        images=str(folder),
        annotations=str(annotations),
        masks=masks,
        check_images=False,
        cache=False,
    )


def _object(rng: np.random.Generator, image: int) -> dict[str, Any]:
    """An ellipse somewhere in the image."""
    size = rng.uniform(10, 200, 2)
    start = rng.uniform(0, 1, 2) * ((WIDTH, HEIGHT) - size)
    angles = np.linspace(0, 2 * np.pi, VERTICES, endpoint=False)
    outline = start + size / 2 * (1 + np.stack([np.cos(angles), np.sin(angles)], 1))
    return {
        "image_id": image,
        "category_id": 1,
        "bbox": [*start.tolist(), *size.tolist()],
        "iscrowd": 0,
        "segmentation": [outline.flatten().tolist()],
    }
