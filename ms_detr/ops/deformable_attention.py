"""The operator as the model calls it: checks, then the compiled kernel or pure torch."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad

from . import reference as pure_torch
from .build import OperatorStatus, load_libraries
from .checks import check_per_sample, check_reference, check_shape, check_value

STATUS = load_libraries()
if STATUS.compiled:
    from . import registration

# "meta" holds no data: the fake kernel answers.
_COMPILED = frozenset((*STATUS.devices, "meta")) if STATUS.compiled else frozenset()


def status() -> OperatorStatus:
    """Tell what runs when the operator is called, and why."""
    return STATUS


def deformable_attention(
    value: Tensor,
    level_shapes: Sequence[tuple[int, int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Weighted sum of bilinear samples from several feature levels (arXiv:2010.04159, Eq. 3).

    With M heads of D channels, V levels and P points. The output has the dtype of ``value``,
    everything is computed in float32 at least, and locations in half precision are worth little:
    in bfloat16 they are right to a third of a cell at best.

    Args:
        value: (B, S, M, D), the levels' cells row by row, one level behind the other.
        level_shapes: (height, width) of the V levels, S cells together.
        sampling_locations: (B, Q, M, V, P, 2) as (x, y); 0 and 1 are the outer edges of a level.
            What lies outside contributes nothing, nor does NaN.
        attention_weights: (B, Q, M, V, P).

    Returns:
        (B, Q, M * D).

    Raises:
        ValueError: the shapes or devices do not fit each other.
        TypeError: a dtype does not.
        NotImplementedError: on the second derivative of a compiled kernel.
    """
    has_kernel = _has_kernel(value)
    if not (has_kernel and torch.compiler.is_compiling()):  # else the fake kernel checks
        check_value(value, level_shapes)
        check_per_sample("sampling_locations", sampling_locations, value, level_shapes)
        shape = tuple(sampling_locations.shape[:-1])
        check_shape("attention_weights", attention_weights, shape, "sampling_locations", value)
    if has_kernel:
        return registration.DEFORMABLE_ATTENTION(
            value, registration.flatten(level_shapes), sampling_locations, attention_weights
        )
    _say_once(value.device.type)
    wide, locations, weights = _widened(value, sampling_locations, attention_weights)
    return pure_torch.deformable_attention(wide, level_shapes, locations, weights).to(value.dtype)


def fused_deformable_attention(
    value: Tensor,
    level_shapes: Sequence[tuple[int, int]],
    reference: Tensor,
    offsets: Tensor,
    logits: Tensor,
) -> Tensor:
    """Deformable attention from what a layer predicts, without its locations and weights in memory.

    Args:
        value: (B, S, M, D), as `deformable_attention` has it, like ``level_shapes``.
        reference: (B, Q, V, 2) points or (B, Q, V, 4) boxes, as
            `ms_detr.ops.reference.sampling_locations` reads them with the offsets.
        offsets: (B, Q, M, V, P, 2).
        logits: (B, Q, M, V, P); a softmax over levels and points makes the weights.

    Returns:
        (B, Q, M * D), of the dtype of ``value``.

    Raises:
        ValueError, TypeError, NotImplementedError: as `deformable_attention`.
    """
    # The kernel has no gradient of references; they rarely need one.
    has_kernel = _has_kernel(value) and not reference.requires_grad
    if not (has_kernel and torch.compiler.is_compiling()):
        check_value(value, level_shapes)
        check_per_sample("offsets", offsets, value, level_shapes)
        check_shape("logits", logits, tuple(offsets.shape[:-1]), "offsets", value)
        check_reference(reference, offsets, value)
    if has_kernel:
        return registration.FUSED(
            value, registration.flatten(level_shapes), reference, offsets, logits
        )
    _, reference, offsets, logits = _widened(value, reference, offsets, logits)
    locations = pure_torch.sampling_locations(reference, offsets, level_shapes)
    weights = pure_torch.attention_weights(logits)
    return deformable_attention(value, level_shapes, locations, weights)


def _has_kernel(value: Tensor) -> bool:
    """Whether a compiled kernel can serve: its device has one, and no transform is at work.

    The kernels know neither forward-mode differentiation nor torch.func.
    """
    if value.device.type not in _COMPILED:
        return False
    if torch.compiler.is_compiling():
        return True
    forward_mode = forward_ad._current_level >= 0
    return not forward_mode and torch._C._functorch.peek_interpreter_stack() is None


def _widened(value: Tensor, *tensors: Tensor) -> Iterator[Tensor]:
    """All tensors as wide as the kernels compute."""
    dtype = torch.promote_types(value.dtype, torch.float32)
    return (tensor.to(dtype) for tensor in (value, *tensors))


def _say_once(device: str) -> None:
    if device not in _COMPILED and not torch.compiler.is_compiling():
        _warn(device)


@functools.cache
def _warn(device: str) -> None:
    """Once a process and device: the slow operator runs."""
    reason = STATUS.reasons.get(device, "there is no kernel for this device")
    logging.getLogger(__name__).warning(
        "Deformable attention on %s runs in pure torch, many times slower than compiled: %s. "
        "To build it: %s",
        device,
        reason,
        STATUS.build_command,
    )
