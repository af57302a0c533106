"""A step that wasn't finite, run once more, with a look at where it begins to be that."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import NonFiniteError
from .finite import bad_names
from .precision import Precision
from .record import Record

NAN, INFINITE = "NaN", "infinite"


@dataclasses.dataclass(frozen=True)
class Replay:
    """What a step did when it was run again.

    Attributes:
        losses: of each part of the batch that came so far.
        error: with which a forward or backward pass ended; empty if none did.
        weights: names of weights and buffers that weren't finite before it.
        outputs: what isn't finite (`NAN`, `INFINITE`) -> the first module that returned it, and
            whether it had been given such values.
        gradients: names of weights whose gradient isn't finite.
        gradient_of: the first module, on the way back, whose output has such a gradient.
    """

    losses: list[dict[str, Tensor]]
    error: str
    weights: list[str]
    outputs: dict[str, str]
    gradients: list[str]
    gradient_of: str

    @property
    def bad_losses(self) -> list[str]:
        """Names of losses that aren't finite, without repetition."""
        return list(dict.fromkeys(name for part in self.losses for name in bad_names(part)))

    @property
    def finite(self) -> bool:
        """Whether all is well this time."""
        return not (self.error or self.bad_losses or self.gradients)

    def same_losses(self, before: Sequence[Mapping[str, Tensor]]) -> bool:
        """Whether the losses are those of the run, to the last digit."""
        pairs = [
            (part.get(name), loss)
            for part, others in zip(self.losses, before, strict=False)
            for name, loss in others.items()
        ]
        return len(self.losses) >= len(before) and all(
            mine is not None and torch.allclose(mine.cpu(), loss, rtol=0, atol=0, equal_nan=True)
            for mine, loss in pairs
        )


def replay(model: nn.Module, record: Record, device: torch.device, anomaly: bool = False) -> Replay:
    """Run a recorded step again: forward and backward, but no optimiser.

    Args:
        model: with the weights of the step; put on ``device`` and into training mode.
        anomaly: let torch find the operation whose gradient is NaN.
    """
    model.to(device).train()
    weights = bad_names(
        {k: v for k, v in model.state_dict().items() if v.is_floating_point()}
    )  # fmt: skip
    model.zero_grad(set_to_none=True)
    precision = Precision(device, record.content["amp"])
    trace, losses, error = Trace(model), [], ""
    with _as_before(record.content), trace.following(), torch.autograd.set_detect_anomaly(anomaly):
        torch.manual_seed(record.content["seed"])
        try:
            for part in record.parts:
                with precision.autocast():
                    found = model(part)
                losses.append({name: loss.detach() for name, loss in found.items()})
                total = torch.stack([loss.float() for loss in found.values()]).sum()
                if not total.isfinite():
                    break
                total.backward()
        except NonFiniteError as problem:
            error = str(problem)
        except RuntimeError as problem:
            if not anomaly:
                raise
            error = str(problem)
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    names = bad_names(gradients)
    return Replay(losses, error, weights, trace.outputs, names, trace.gradient_of)


class Trace:
    """Watches what modules return, and the gradients of that.

    Attributes:
        outputs, gradient_of: as of `Replay`.
    """

    def __init__(self, model: nn.Module):
        self._model = model
        self.outputs: dict[str, str] = {}
        self.gradient_of = ""

    @contextmanager
    def following(self) -> Iterator[None]:
        """Watch while the block lasts."""
        handles = [
            module.register_forward_hook(partial(self._after, name), with_kwargs=True)
            for name, module in self._model.named_modules()
            if name
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _after(self, name: str, _: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        for tensor in tensors_in(output):
            for what in _what_is_bad(tensor) - self.outputs.keys():
                given = any(what in _what_is_bad(x) for x in tensors_in((args, kwargs)))
                self.outputs[what] = f"{name}, which {'was' if given else 'was not'} given such"
            if tensor.requires_grad:
                tensor.register_hook(partial(self._backward, name))

    def _backward(self, name: str, gradient: Tensor) -> None:
        if not self.gradient_of and not gradient.isfinite().all():
            self.gradient_of = name


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the floating-point tensors in nested containers and dataclasses."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, Mapping):
        yield from tensors_in(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors_in(item)
    elif dataclasses.is_dataclass(value):
        yield from tensors_in([getattr(value, f.name) for f in dataclasses.fields(value)])


def _what_is_bad(tensor: Tensor) -> set[str]:
    kinds = {NAN: tensor.isnan(), INFINITE: tensor.isinf()}
    return {name for name, found in kinds.items() if found.any()}


@contextmanager
def _as_before(content: Mapping[str, Any]) -> Iterator[None]:
    """Compute as the run did: its threads and its precision of products, on which digits hang."""
    threads, matmul = torch.get_num_threads(), torch.get_float32_matmul_precision()
    torch.set_num_threads(content["threads"])
    torch.set_float32_matmul_precision(content["matmul"])
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(matmul)
