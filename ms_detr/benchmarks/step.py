"""How long a training step and a prediction take, and in how much memory, config by config."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from ..config import load
from ..engine import build_optimizer, choose_device
from ..engine.checks import build
from .limits import measure_peak, timed

BATCHES = 4  # of each loader, taken in turn


def compare_steps(
    configs: Sequence[str],
    overrides: Sequence[str] = (),
    rounds: int = 9,
    steps: int = 5,
    threads: int | None = None,
) -> list[dict[str, Any]]:
    """Time configs on their first batches, turn by turn in each round, data loading left out.

    Returns:
        Dicts, for each config one of training (forward, backward, optimiser) and one of prediction:
        median seconds of a batch, the median over the rounds of its ratio to the first config's,
        and the peak of memory in megabytes above weights and optimiser.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    runners = [_runners(load(config, overrides)) for config in configs]
    rows = []
    for index, what in enumerate(("train", "predict")):
        mine = [made[index] for made in runners]
        seconds = [[_time(run, steps) for run in mine] for _ in range(rounds + 1)][1:]
        for config, run, times in zip(configs, mine, zip(*seconds, strict=True), strict=True):
            rows.append(
                {
                    "config": config,
                    "what": what,
                    "seconds": statistics.median(times),
                    f"ratio to {configs[0]}": statistics.median(
                        time / round_[0] for time, round_ in zip(times, seconds, strict=True)
                    ),
                    "peak MB": measure_peak(run, run.device),
                }
            )
    return rows


class _Step:
    """Something to do with one batch after another."""

    def __init__(self, device: torch.device, loader: Iterable[Any], work: Callable[[Any], object]):
        self.device = device.type
        self.batches = itertools.cycle([x for x, _ in zip(loader, range(BATCHES), strict=False)])
        self.work = work

    def __call__(self) -> None:
        self.work(next(self.batches))


def _time(step: _Step, steps: int) -> float:
    """Seconds a step."""

    def run() -> None:
        for _ in range(steps):
            step()

    return timed(run, step.device) / steps


def _runners(cfg: Any) -> tuple[_Step, _Step]:
    """Training and prediction of a config; the optimiser's memory is there from the start."""
    torch.manual_seed(cfg.train.seed)
    model = build(cfg, "model").to(choose_device(cfg.train.device))
    optimizer = build_optimizer(cfg.optimizer, model)
    limit = math.inf if cfg.train.clip_grad_norm is None else cfg.train.clip_grad_norm

    def train(batch: Any) -> None:
        loss = sum(model.train()(batch).values())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), limit)
        optimizer.step()

    def predict(batch: Any) -> None:
        with torch.inference_mode():
            model.eval()(batch)

    return (
        _Step(model.device, build(cfg, "dataloader.train"), train),
        _Step(model.device, build(cfg, "dataloader.test"), predict),
    )
