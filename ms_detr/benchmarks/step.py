"""How long a training step takes, one config against another."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..config import load
from ..engine import build_optimizer, choose_device
from ..engine.checks import build


def compare_steps(
    configs: Sequence[str],
    overrides: Sequence[str] = (),
    rounds: int = 9,
    steps: int = 5,
    threads: int | None = None,
) -> list[dict[str, Any]]:
    """Time forward, backward and optimiser on the same batches, config after config in each round.

    Returns:
        A dict a config: median seconds a step, and the median over the rounds of its ratio to the
        first config's. The first round warms up and does not count.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    runners = {config: _runner(config, overrides) for config in configs}
    seconds: dict[str, list[float]] = {config: [] for config in configs}
    for _ in range(rounds + 1):
        for config, step in runners.items():
            start = time.perf_counter()
            for _ in range(steps):
                step()
            seconds[config].append((time.perf_counter() - start) / steps)
    first = seconds[configs[0]][1:]
    return [
        {
            "config": config,
            "seconds a step": statistics.median(seconds[config][1:]),
            f"ratio to {configs[0]}": statistics.median(
                mine / base for mine, base in zip(seconds[config][1:], first, strict=True)
            ),
        }
        for config in configs
    ]


def _runner(config: str, overrides: Sequence[str]) -> Callable[[], None]:
    """One training step of a config, again and again over its first batches."""
    cfg = load(config, overrides)
    torch.manual_seed(cfg.train.seed)
    model = build(cfg, "model").to(choose_device(cfg.train.device)).train()
    optimizer = build_optimizer(cfg.optimizer, model)
    loader = build(cfg, "dataloader.train")
    batches = [batch for batch, _ in zip(loader, range(4), strict=False)]
    limit = math.inf if cfg.train.clip_grad_norm is None else cfg.train.clip_grad_norm
    position = 0

    def step() -> None:
        nonlocal position
        loss = sum(model(batches[position % len(batches)]).values())
        position += 1
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), limit)
        optimizer.step()
        if model.device.type == "cuda":
            torch.cuda.synchronize()

    return step
