"""What a run's folder tells of it."""

from __future__ import annotations

import datetime
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..errors import MissingFileError
from ..evaluation import read_results
from ..run_folder import (
    AVERAGED,
    CONFIG,
    EVALUATION,
    FINAL,
    LAST,
    LOG,
    METRICS,
    RESULTS,
    iterations_done,
    read_metrics,
)
from .log import Log, read_log

LONGEST = 1e12  # seconds that can be told; NaN isn't less either
DECAY = "train.ema.decay"
MADE_BY = "made by: "  # before what the first line of a config tells of its origin


@dataclass(frozen=True)
class Series:
    """A number over the course of a run.

    Attributes:
        iterations: (n,) int64, how many were done.
        values: (n,) float64.
    """

    iterations: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class Run:
    """A run, finished or not.

    Attributes:
        origin: the config's file and overrides.
        config: its text.
        series: by the names of ``metrics.json``.
        results: of the last evaluation by task; those of the average of the weights as
            ``ema/bbox``.
        finished: whether its last checkpoint is that of a complete training.
    """

    folder: Path
    origin: str
    config: str
    series: Mapping[str, Series]
    results: Mapping[str, Mapping[str, float]]
    log: Log
    finished: bool

    @property
    def iterations(self) -> int:
        """How many have been logged."""
        return max((int(each.iterations[-1]) for each in self.series.values()), default=0)

    def training_time(self) -> datetime.timedelta | None:
        """The time of all steps together, as logged; None if it isn't known of all of them."""
        times = self.series.get("time")
        if times is None:
            return None
        steps = np.diff(times.iterations, prepend=0)
        seconds = float((steps * times.values).sum())
        return datetime.timedelta(seconds=round(seconds)) if abs(seconds) < LONGEST else None

    def setting(self, key: str) -> Any:
        """A value of the config, links followed; None if it isn't there or can't be told."""
        try:
            return OmegaConf.select(self._settings, key)
        except OmegaConfBaseException:
            return None

    @functools.cached_property
    def _settings(self) -> Any:
        try:
            return OmegaConf.create(yaml.safe_load(self.config) or {})
        except (OmegaConfBaseException, yaml.YAMLError, ValueError):
            return OmegaConf.create()


def read_run(folder: Path) -> Run:
    """Read a run's folder, ``train.output_dir``.

    Raises:
        MissingFileError: no run has begun there.
    """
    if not (folder / CONFIG).is_file():
        raise MissingFileError(
            f"{folder / CONFIG} is missing: give the train.output_dir of a run that has begun"
        )
    config = _text(folder / CONFIG)
    results: dict[str, Mapping[str, float]] = {}
    run = Run(
        folder,
        config.partition("\n")[0].partition(MADE_BY)[2],
        config,
        _series(folder),
        results,
        read_log(_text(folder / LOG)),
        _text(folder / LAST).strip() == FINAL,
    )
    averaged = run.setting(DECAY) is not None  # else what is there is of an earlier start
    for name, prefix in ((EVALUATION, ""), (f"{EVALUATION}_ema", AVERAGED)):
        if (averaged or not prefix) and (folder / name / RESULTS).is_file():
            found = read_results(folder / name)
            results |= {f"{prefix}{task}": values for task, values in found.items()}
    return run


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _series(folder: Path) -> dict[str, Series]:
    """Everything in ``metrics.json``, by name."""
    if not (folder / METRICS).is_file():
        return {}
    lines = list(read_metrics(folder))
    points: dict[str, dict[int, float]] = {}
    for done, line in zip(iterations_done(lines), lines, strict=True):
        for name, value in line.items():
            if name != "iteration" and isinstance(value, (int, float)):
                points.setdefault(name, {})[done] = float(value)
    return {
        name: Series(*(np.array(column) for column in zip(*sorted(found.items()), strict=True)))
        for name, found in points.items()
    }
