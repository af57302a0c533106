"""What PyTorch's tracers and autograd know of the compiled operators (schemas: ops/csrc).

Imported once the library is loaded. Autocast needs no rule of its own: kernels run in the dtype of
``value`` and take everything else in float32 (float64 for float64).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .checks import check_per_sample, check_reference, check_shape, check_value

Gradients = tuple[Tensor, Tensor, Tensor]

DEFORMABLE_ATTENTION = torch.ops.ms_detr.deformable_attention
DEFORMABLE_ATTENTION_BACKWARD = torch.ops.ms_detr.deformable_attention_backward
FUSED = torch.ops.ms_detr.fused_deformable_attention
FUSED_BACKWARD = torch.ops.ms_detr.fused_deformable_attention_backward


def flatten(level_shapes: Any) -> list[int]:
    """((h, w), ...) -> [h, w, ...], as the schemas have it."""
    return [size for shape in level_shapes for size in shape]


def _pairs(level_shapes: Any) -> list[tuple[int, int]]:
    return list(zip(level_shapes[::2], level_shapes[1::2], strict=True))


def _like_output(value: Tensor, per_sample: Tensor) -> Tensor:
    batch, _, heads, channels = value.shape
    return value.new_empty(batch, per_sample.shape[1], heads * channels)


@torch.library.register_fake("ms_detr::deformable_attention")
def _(
    value: Tensor, level_shapes: Any, sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    shapes = _pairs(level_shapes)
    check_value(value, shapes)
    check_per_sample("sampling_locations", sampling_locations, value, shapes)
    shape = tuple(sampling_locations.shape[:-1])
    check_shape("attention_weights", attention_weights, shape, "sampling_locations", value)
    return _like_output(value, sampling_locations)


@torch.library.register_fake("ms_detr::fused_deformable_attention")
def _(
    value: Tensor, level_shapes: Any, reference: Tensor, offsets: Tensor, logits: Tensor
) -> Tensor:
    shapes = _pairs(level_shapes)
    check_value(value, shapes)
    check_per_sample("offsets", offsets, value, shapes)
    check_shape("logits", logits, tuple(offsets.shape[:-1]), "offsets", value)
    check_reference(reference, offsets, value)
    return _like_output(value, offsets)


@torch.library.register_fake("ms_detr::deformable_attention_backward")
def _(
    grad: Tensor, value: Tensor, level_shapes: Any, locations: Tensor, weights: Tensor
) -> Gradients:
    return _empty(value), _empty(locations), _empty(weights)


@torch.library.register_fake("ms_detr::fused_deformable_attention_backward")
def _(
    grad: Tensor,
    value: Tensor,
    level_shapes: Any,
    reference: Tensor,
    offsets: Tensor,
    logits: Tensor,
) -> Gradients:
    return _empty(value), _empty(offsets), _empty(logits)


def _empty(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, memory_format=torch.contiguous_format)


def _save(ctx: Any, inputs: tuple, output: Tensor) -> None:
    value, ctx.level_shapes, *others = inputs
    ctx.save_for_backward(value, *others)


def _backward(ctx: Any, grad: Tensor) -> tuple:
    value, locations, weights = ctx.saved_tensors
    grads = DEFORMABLE_ATTENTION_BACKWARD(grad, value, ctx.level_shapes, locations, weights)
    return grads[0], None, grads[1], grads[2]


def _fused_backward(ctx: Any, grad: Tensor) -> tuple:
    if ctx.needs_input_grad[2]:
        raise NotImplementedError(
            "the compiled fused operator has no gradient of references; call "
            "ms_detr.ops.fused_deformable_attention, which takes another way for them"
        )
    value, reference, offsets, logits = ctx.saved_tensors
    grads = FUSED_BACKWARD(grad, value, ctx.level_shapes, reference, offsets, logits)
    return grads[0], None, None, grads[1], grads[2]


def _no_second_derivative(ctx: Any, *grads: Tensor | None) -> tuple:
    raise NotImplementedError(
        "the compiled deformable attention has no second derivative; differentiate "
        "ms_detr.ops.reference.deformable_attention twice instead"
    )


torch.library.register_autograd("ms_detr::deformable_attention", _backward, setup_context=_save)
torch.library.register_autograd(
    "ms_detr::fused_deformable_attention", _fused_backward, setup_context=_save
)
for _name in ("deformable_attention_backward", "fused_deformable_attention_backward"):
    torch.library.register_autograd(f"ms_detr::{_name}", _no_second_derivative)
