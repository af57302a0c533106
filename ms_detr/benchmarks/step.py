"""How long a training step and a prediction take, and in how much memory, config by config."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from ..config import load
from ..engine import build_optimizer, choose_device
from ..engine.building import build
from ..engine.parts import in_parts
from .limits import measure_peak, timed

BATCHES = 4  # of each loader, taken in turn
# What is measured, and the loader that it reads.
LOADERS = {"train": "dataloader.train", "predict": "dataloader.test"}


def compare_steps(
    configs: Sequence[str],
    overrides: Sequence[str] = (),
    rounds: int = 9,
    steps: int = 5,
    threads: int | None = None,
) -> list[dict[str, Any]]:
    """Time configs on their first batches, turn by turn in each round, data loading left out.

    One model is held at a time, and batches once for all configs that read the same data: any
    number of configs fits.

    Returns:
        Dicts, for each config one of training (forward, backward, optimiser) and one of prediction:
        median seconds of a batch, the median over the rounds of its ratio to the first config's,
        and the peak of memory in megabytes above weights and optimiser.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    cfgs = [load(config, overrides) for config in configs]
    data = _first_batches(cfgs)
    turns = [
        [_take_turn(cfg, batches, steps) for cfg, batches in zip(cfgs, data, strict=True)]
        for _ in range(rounds + 1)
    ][1:]
    rows = []
    for what in LOADERS:
        for index, config in enumerate(configs):
            mine = [turn[index][what] for turn in turns]
            ratios = [
                m.seconds / turn[0][what].seconds for m, turn in zip(mine, turns, strict=True)
            ]
            rows.append(
                {
                    "config": config,
                    "what": what,
                    "seconds": statistics.median(m.seconds for m in mine),
                    f"ratio to {configs[0]}": statistics.median(ratios),
                    "peak MB": statistics.median(m.peak for m in mine),
                }
            )
    return rows


@dataclass(frozen=True)
class _Measured:
    """Seconds of a batch, and the peak of memory in megabytes."""

    seconds: float
    peak: float


Batches = Mapping[str, list[Any]]


def _first_batches(cfgs: Sequence[DictConfig]) -> list[Batches]:
    """What each config trains and predicts on; those with equal loaders share it."""
    made: dict[str, list[Any]] = {}

    def read(cfg: DictConfig, key: str) -> list[Any]:
        text = repr(OmegaConf.to_container(OmegaConf.select(cfg, key), resolve=True))
        if text not in made:
            made[text] = [x for x, _ in zip(build(cfg, key), range(BATCHES), strict=False)]
        return made[text]

    return [{what: read(cfg, key) for what, key in LOADERS.items()} for cfg in cfgs]


def _take_turn(cfg: DictConfig, batches: Batches, steps: int) -> dict[str, _Measured]:
    """Measure a config built anew, and let go of it."""
    torch.manual_seed(cfg.train.seed)
    model = build(cfg, "model").to(choose_device(cfg.train.device))
    optimizer = build_optimizer(cfg.optimizer, model)
    limit = math.inf if cfg.train.clip_grad_norm is None else cfg.train.clip_grad_norm

    def train(batch: Any) -> None:
        (whole,) = in_parts(batch, 1, done=0.0)
        loss = sum(model.train()(whole).values())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), limit)
        optimizer.step()

    def predict(batch: Any) -> None:
        with torch.inference_mode():
            model.eval()(batch)

    device = model.device.type
    return {
        what: _measure(work, itertools.cycle(batches[what]), device, steps)
        for what, work in (("train", train), ("predict", predict))
    }


def _measure(
    work: Callable[[Any], object], batches: Iterator[Any], device: str, steps: int
) -> _Measured:
    """A first step is not timed: it makes the optimiser's memory, for one."""

    def run() -> None:
        for _ in range(steps):
            work(next(batches))

    work(next(batches))
    seconds = timed(run, device) / steps
    return _Measured(seconds, measure_peak(lambda: work(next(batches)), device))
