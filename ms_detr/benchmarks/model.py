"""What a model costs at inference: parameters, arithmetic, time and memory."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.data.transforms import AugInput, AugmentationList
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from ..config import load
from ..engine.building import build
from ..errors import ConfigError
from ..ops import status
from .limits import measure_peak, timed
from .pairs import choose_machine

LARGE = (1200, 2000)  # pixels: COCO's configs make 800 x 1333 of such an image
CORNERS = 4  # cells that a sample is made of
WARM_UP = 2  # rounds that aren't counted


@dataclass(frozen=True)
class Cost:
    """Of one forward pass of a model.

    Attributes:
        parameters: all, those that only training needs included; statistics of normalisations
            are none.
        at_inference: of which a prediction reads something.
        gflops: 1e9 multiply-adds of convolutions, matrix products and deformable attention, a
            multiply-add counted once, as published tables do.
        attention_gflops: those of deformable attention among them.
    """

    parameters: int
    at_inference: int
    gflops: float
    attention_gflops: float


def image_size(cfg: DictConfig) -> tuple[int, int]:
    """Height and width that a config's test images have when they are large, in pixels.

    It is what the config's augmentations make of an image of 1200 x 2000.

    Raises:
        ConfigError: they leave it as it is, so that images have any size; or can't be built.
    """
    augmentations = AugmentationList(build(cfg, "dataloader.test.mapper.augmentations"))
    seen = AugInput(np.zeros((*LARGE, 3), np.uint8))
    augmentations(seen)
    if seen.image.shape[:2] == LARGE:
        raise ConfigError(
            "test images are left as they are: give their height and width, --size HEIGHT WIDTH"
        )
    return seen.image.shape[:2]


def _size_of(config: str, cfg: DictConfig) -> tuple[int, int]:
    try:
        return image_size(cfg)
    except ConfigError as error:
        raise ConfigError(f"{config}: {error}") from error


def count_cost(cfg: DictConfig, size: tuple[int, int] | None = None, batch: int = 1) -> Cost:
    """Count what a config's model costs, without computing anything: on the "meta" device.

    Args:
        size: (height, width) of an image, in pixels; None for the config's, see `image_size`.
        batch: so many images.

    Raises:
        ConfigError: the compiled operator is missing, in whose place many others would be counted;
            or the model can't be built.
    """
    if not status().compiled:
        raise ConfigError(
            "arithmetic is counted of the compiled operator, which is missing here. To build it: "
            f"{status().build_command}"
        )
    with torch.device("meta"):
        model = build(cfg, "model").eval().requires_grad_(False)
    model = model.to("meta")
    used = _UsedParameters(model)
    counter = FlopCounterMode(display=False, custom_mapping=_formulas())
    shape = (batch, 3, *(size or image_size(cfg)))
    images = torch.zeros(shape, dtype=torch.uint8, device="meta")
    with torch.no_grad(), counter, used:
        model.forward_tensors(*model.preprocess([{"image": image} for image in images]))
    counts = counter.get_flop_counts()["Global"]
    attention = sum(counts.get(operator, 0) for operator in _formulas())
    return Cost(
        sum(parameter.numel() for parameter in model.parameters()),
        used.numbers(),
        counter.get_total_flops() / 2 * 1e-9,
        attention / 2 * 1e-9,
    )


class _UsedParameters(TorchDispatchMode):
    """Notes which of a model's parameters an operator reads."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self._sizes = {id(parameter): parameter.numel() for parameter in model.parameters()}
        self._seen: set[int] = set()

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Any = (), options: Any = None
    ) -> Any:
        options = options or {}
        for leaf in tree_leaves((arguments, options)):
            if isinstance(leaf, Tensor) and id(leaf) in self._sizes:
                self._seen.add(id(leaf))
        return function(*arguments, **options)

    def numbers(self) -> int:
        """How many numbers they hold."""
        return sum(self._sizes[key] for key in self._seen)


def _formulas() -> dict[Any, Callable[..., int]]:
    """FLOPs of our operators, two a multiply-add, as `FlopCounterMode` wants them."""
    operators = torch.ops.ms_detr
    return {
        operators.deformable_attention: _attention_flops,
        operators.fused_deformable_attention: _attention_flops,
    }


def _attention_flops(value: Any, *shapes: Any, out_shape: Any = None, **_: Any) -> int:
    """Of deformable attention: each channel of a sample adds up its four cells, weighted.

    Args:
        value: its shape (B, S, M, D).
        shapes: of the other arguments; the last is (B, Q, M, V, P), weights or logits.
    """
    samples = 1
    for length in shapes[-1]:
        samples *= length
    return 2 * CORNERS * samples * value[-1]


def measure_models(
    configs: Sequence[str],
    overrides: Sequence[str] = (),
    size: tuple[int, int] | None = None,
    batch: int = 1,
    rounds: int = 9,
    device: str = "cpu",
    threads: int | None = None,
    timing: bool = True,
) -> list[dict[str, Any]]:
    """Count and time configs' models at inference, on random images, with random weights.

    All models are held, and timed turn by turn in each round, pre- and postprocessing included;
    the first rounds warm up.

    Args:
        configs: by name or path.
        overrides: for all of them.
        size: (height, width) of an image, in pixels; None for each config's, see `image_size`.
        batch: so many images at a time.
        rounds: that are counted.
        device: "cpu" or "cuda".
        threads: of the CPU; None leaves them as they are.
        timing: whether to measure time and memory, or to count alone.

    Returns:
        A dict a config: millions of parameters, of those at inference, GFLOPs of an image (see
        `Cost`); with ``timing`` the median milliseconds of a batch, the median over the rounds of
        its ratio to the first config's, images a second, and the peak of memory in megabytes above
        the weights.

    Raises:
        ConfigError: see `count_cost`; or there is no GPU.
    """
    choose_machine(device, threads)
    cfgs = [load(config, overrides) for config in configs]
    sizes = [size or _size_of(config, cfg) for config, cfg in zip(configs, cfgs, strict=True)]
    rows = []
    for config, cfg, (height, width) in zip(configs, cfgs, sizes, strict=True):
        cost = count_cost(cfg, (height, width))
        rows.append(
            {
                "config": config,
                "image": f"{height} x {width}",
                "parameters M": cost.parameters * 1e-6,
                "at inference M": cost.at_inference * 1e-6,
                "GFLOPs": cost.gflops,
                "of deformable attention": cost.attention_gflops,
            }
        )
    if timing:
        times = _time_models(cfgs, sizes, batch, rounds, device)
        rows = [
            {**row, **_named(of, configs[0], batch)} for row, of in zip(rows, times, strict=True)
        ]
    return rows


@dataclass(frozen=True)
class _Times:
    """Seconds of a batch in every round, their ratios to the first model's, megabytes."""

    seconds: list[float]
    ratios: list[float]
    peak: float


def _time_models(
    cfgs: Sequence[DictConfig],
    sizes: Sequence[tuple[int, int]],
    batch: int,
    rounds: int,
    device: str,
) -> list[_Times]:
    torch.manual_seed(0)
    models = [build(cfg, "model").eval().to(device) for cfg in cfgs]
    calls = [_call(model, size, batch) for model, size in zip(models, sizes, strict=True)]
    turns = [[timed(call, device) for call in calls] for _ in range(rounds + WARM_UP)][WARM_UP:]
    columns = [list(column) for column in zip(*turns, strict=True)]
    return [
        _Times(
            column,
            [own / first for own, first in zip(column, columns[0], strict=True)],
            measure_peak(call, device),
        )
        for column, call in zip(columns, calls, strict=True)
    ]


def _call(model: nn.Module, size: tuple[int, int], batch: int) -> Callable[[], None]:
    """A prediction for a batch of random images."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (batch, 3, *size), generator=generator, dtype=torch.uint8)
    inputs = [{"image": image} for image in pixels]

    def predict() -> None:
        with torch.inference_mode():
            model(inputs)

    return predict


def _named(times: _Times, first: str, batch: int) -> dict[str, Any]:
    seconds = statistics.median(times.seconds)
    return {
        "batch": batch,
        "ms": seconds * 1e3,
        f"ratio to {first}": statistics.median(times.ratios),
        "images/s": batch / seconds,
        "peak MB": times.peak,
    }
