"""Exported files of a model beside PyTorch."""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..engine import load_model
from ..exporting import FORMATS, Form, export
from ..exporting.interface import Exported
from ..exporting.writing import plain_copy
from .limits import interleaved
from .pairs import choose_machine

WAYS = {
    "ONNX, grid_sample": ("onnx", Form()),
    "ONNX, gather": ("onnx", Form(gather=True)),
    "torch.export, grid_sample": ("torch-export", Form()),
}
PYTORCH = "PyTorch"


def compare_exported(
    weights: str | os.PathLike[str],
    batch: int = 1,
    size: tuple[int, int] = (800, 1216),
    rounds: int = 9,
    threads: int | None = None,
) -> list[dict[str, Any]]:
    """Time a model and its files on the CPU, turn by turn, on images of noise.

    Returns:
        A dict a way: the median of its milliseconds, how many times PyTorch's that is, the largest
        difference of a score, and the file's megabytes.
    """
    choose_machine("cpu", threads)
    model = load_model(weights)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch, 3, *size), dtype=np.uint8)
    sizes = np.array([size] * batch, dtype=np.int64)
    mapper = model.usage.mapper if model.usage else None
    plain = Exported(plain_copy(model), Form(), mapper.image_format if mapper else "RGB").eval()

    @torch.no_grad()
    def pytorch() -> np.ndarray:
        return plain(torch.from_numpy(images), torch.from_numpy(sizes))[1].numpy()

    runs: dict[str, Callable[[], np.ndarray]] = {PYTORCH: pytorch}
    megabytes: dict[str, float | None] = {PYTORCH: None}
    with tempfile.TemporaryDirectory() as folder:
        for name, (format, form) in WAYS.items():
            file = Path(folder) / f"{len(runs)}{FORMATS[format].suffix}"
            export(model, file, format, form)
            run = FORMATS[format].open(file)
            runs[name] = lambda run=run: run(images, sizes)["scores"]  # type: ignore[misc]
            megabytes[name] = file.stat().st_size / 1e6
    expected = pytorch()
    times = interleaved(list(runs.values()), "cpu", rounds)
    medians = [statistics.median(seconds) * 1e3 for seconds in times]
    return [
        {
            "way": name,
            "ms": median,
            "ratio": median / medians[0],
            "largest difference": float(np.abs(run() - expected).max()),
            "MB": megabytes[name],
        }
        for (name, run), median in zip(runs.items(), medians, strict=True)
    ]
