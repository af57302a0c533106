"""Where the time of a training step goes, config by config, in as many processes as train."""

from __future__ import annotations

import itertools
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from omegaconf import DictConfig
from torch import Tensor, nn

from ..config import load
from ..engine import Trainer
from ..engine.batch_size import batching
from ..engine.building import build
from ..engine.checks import check_config
from ..engine.device import prepare
from ..engine.distribution import distribute, exchanged_bytes
from ..engine.learner import Learner
from ..engine.pairs import check_training
from ..engine.precision import Precision
from ..errors import ConfigError
from .limits import measure_peak, synchronize

# In the order of a step; what none of them has is in the last column, "other".
STAGES = ("data", "forward", "matching", "losses", "backward", "optimizer")
BATCHES = 4  # that are made


@dataclass(frozen=True)
class TrainingRun:
    """A row of the table: a config, its overrides, and a name for both."""

    name: str
    config: str
    overrides: Sequence[str] = ()


@dataclass(frozen=True)
class MadeImages:
    """Images that are made instead of read: noise, with so many objects each."""

    height: int
    width: int
    objects: int

    def batches(self, count: int, classes: int) -> Iterator[list[dict[str, Any]]]:
        """Yield batches of so many images as a loader does, a few of them again and again."""
        generator = torch.Generator().manual_seed(0)
        batches = [[self._image(generator, classes) for _ in range(count)] for _ in range(BATCHES)]
        return itertools.cycle(batches)

    def _image(self, generator: torch.Generator, classes: int) -> dict[str, Any]:
        size = torch.tensor([self.width, self.height])
        low, high = torch.rand(2, self.objects, 2, generator=generator).sort(0).values
        instances = Instances((self.height, self.width))
        instances.gt_boxes = Boxes(torch.cat([low * size, high * size], 1))
        instances.gt_classes = torch.randint(classes, (self.objects,), generator=generator)
        shape = (3, self.height, self.width)
        image = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
        return {"image": image, "instances": instances, "height": shape[1], "width": shape[2]}


class Stopwatch:
    """Seconds by stage. A GPU is waited for where a stage begins and ends."""

    def __init__(self, device: str):
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the seconds of the block to a stage."""
        synchronize(self.device)
        start = time.perf_counter()
        yield
        synchronize(self.device)
        self.seconds[name] += time.perf_counter() - start


class StagedModel(nn.Module):
    """A detector in training whose parts are timed."""

    def __init__(self, detector: Any, watch: Stopwatch):
        super().__init__()
        self.detector = detector
        self.watch = watch

    def forward(self, batch: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Losses by name."""
        detector = self.detector
        with self.watch.stage("forward"):
            images, padding_mask = detector.preprocess(batch)
            targets = detector.targets(batch, (images.shape[-2], images.shape[-1]))
            predictions = detector.forward_tensors(images, padding_mask, targets)
            predictions = predictions.at_least_single()
        with self.watch.stage("matching"):
            assignments = detector.criterion.assign(predictions, targets)
        with self.watch.stage("losses"):
            return detector.criterion.losses(predictions, targets, assignments)


class StagedPrecision(Precision):
    """The precision of a training whose parts are timed."""

    def __init__(self, watch: Stopwatch, dtype: str | None):
        super().__init__(watch.device, dtype)
        self.watch = watch

    def backward(self, loss: Tensor) -> None:
        """Time the gradients, and what the processes wait for in the meantime."""
        with self.watch.stage("backward"):
            super().backward(loss)

    def step(self, optimizer: torch.optim.Optimizer) -> bool:
        """Time the change of the weights."""
        with self.watch.stage("optimizer"):
            return super().step(optimizer)


@dataclass
class StagedLoader:
    """Batches without end, the next one timed. It goes on where it was left."""

    batches: Iterator[list[dict[str, Any]]]
    watch: Stopwatch

    def __iter__(self) -> StagedLoader:
        return self

    def __next__(self) -> list[dict[str, Any]]:
        with self.watch.stage("data"):
            return next(self.batches)


@dataclass
class Subject:
    """A config in training.

    Attributes:
        trainer: of all processes together.
        alone: the same model in this process by itself, None where it is by itself anyway.
        seconds: of a step, by stage and as "step", and as "alone" of one by itself; a value a turn.
    """

    watch: Stopwatch
    trainer: Trainer
    alone: Trainer | None
    images: int
    seconds: dict[str, list[float]] = field(default_factory=dict)

    @classmethod
    def of(cls, cfg: DictConfig, made: MadeImages | None) -> Subject:
        """Build a config as a training does; no batch size is looked for by trial."""
        check_config(cfg)
        check_training(cfg)
        cfg.train.ema.decay = None  # averages aren't a part of the trainer's step
        device = prepare(cfg.train)
        watch = Stopwatch(device.type)
        learner = Learner.of(cfg, build(cfg, "model").to(device), device)
        model = StagedModel(learner.model, watch)
        precision = StagedPrecision(watch, amp.dtype if (amp := cfg.train.amp).enabled else None)
        processes = comm.get_world_size()
        total = cfg.dataloader.train.total_batch_size
        if made is None:
            batches = iter(build(cfg, "dataloader.train"))
        else:
            batches = made.batches(total // processes, cfg.model.num_classes)

        split = batching(cfg.train, total, lambda: total // processes)

        def trainer(wrapped: nn.Module) -> Trainer:
            return Trainer(
                wrapped,
                StagedLoader(batches, watch),
                learner.optimizer,
                clip_grad_norm=cfg.train.clip_grad_norm,
                accumulate=split.parts,
                precision=precision,
            )

        alone = trainer(model) if processes > 1 else None
        return cls(watch, trainer(distribute(model)), alone, total)

    def take_turn(self, steps: int) -> None:
        """Time some steps; one before them isn't counted."""
        measured = self._time(self.trainer, steps)
        if self.alone is not None:
            measured["alone"] = self._time(self.alone, steps)["step"]
        for name, seconds in measured.items():
            self.seconds.setdefault(name, []).append(seconds)

    def _time(self, trainer: Trainer, steps: int) -> dict[str, float]:
        trainer.train(0, 1)
        self.watch.seconds.clear()
        synchronize(self.watch.device)
        start = time.perf_counter()
        trainer.train(1, 1 + steps)
        synchronize(self.watch.device)
        whole = time.perf_counter() - start
        return {
            "step": whole / steps,
            **{stage: self.watch.seconds[stage] / steps for stage in STAGES},
            "other": (whole - sum(self.watch.seconds.values())) / steps,
        }

    def memory(self) -> float:
        """Megabytes (1e6) of weights, buffers and optimiser, and what a step takes above them."""
        optimizer = self.trainer.optimizer
        held = [*self.trainer.model.parameters(), *self.trainer.model.buffers()]
        for state in optimizer.state.values():
            held += [value for value in state.values() if isinstance(value, Tensor)]
        optimizer.zero_grad(set_to_none=True)
        peak = measure_peak(lambda: self.trainer.train(0, 1), self.watch.device)
        return peak + sum(tensor.nbytes for tensor in held) * 1e-6


def compare_training(
    runs: Sequence[TrainingRun],
    made: MadeImages | None = None,
    rounds: int = 5,
    steps: int = 5,
    threads: int | None = None,
) -> list[dict[str, Any]]:
    """Time the training steps of configs, turn by turn in each round, by the real trainer.

    All processes call it together.

    Returns:
        Dicts, one a run: images a second of all processes; median seconds of a step; the median
        over the rounds of its ratio to the first run's; median seconds by stage, with "other" for
        the rest of the step; with several processes "communication", what a step takes longer than
        one whose gradients stay in their process, which is a part of the others, and megabytes
        (1e6) of gradients that the processes average in a step; megabytes at the peak, and their
        ratio to the first run's. In the main process; elsewhere there are none.

    Raises:
        ConfigError: images are to be made for a model that learns masks.
    """
    subjects = [Subject.of(_config(run, made, threads), made) for run in runs]
    for _ in range(rounds):
        for subject in subjects:
            subject.take_turn(steps)
    memory = [subject.memory() for subject in subjects]
    first = subjects[0].seconds["step"]
    rows = []
    for run, subject, megabytes in zip(runs, subjects, memory, strict=True):
        median = {name: statistics.median(s) for name, s in subject.seconds.items()}
        ratios = [own / other for own, other in zip(subject.seconds["step"], first, strict=True)]
        row = {
            "run": run.name,
            "images/s": subject.images / median["step"],
            "step s": median["step"],
            "ratio": statistics.median(ratios),
            **{stage: median[stage] for stage in (*STAGES, "other")},
        }
        if "alone" in median:
            row["communication"] = median["step"] - median["alone"]
            row["gradients MB"] = exchanged_bytes(subject.trainer.model) * 1e-6
        rows.append({**row, "memory MB": megabytes, "memory ratio": megabytes / memory[0]})
    return rows if comm.is_main_process() else []


def _config(run: TrainingRun, made: MadeImages | None, threads: int | None) -> DictConfig:
    cfg = load(run.config, run.overrides)
    if threads is not None:
        cfg.train.threads = threads
    if made is not None and cfg.dataloader.get("masks"):
        raise ConfigError(f"--size makes images without masks, which {run.name} learns")
    return cfg
