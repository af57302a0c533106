"""Deformable attention after the original kernels' scheme: the yardstick for ours on a GPU.

No part of the operator: compiled when a benchmark asks for it (im2col.cu), which needs nvcc and
ninja, and kept by PyTorch for the next time. float32 and 32 channels a head alone.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..cuda_toolkit import ARCHITECTURES, find_cuda_home, why_no_toolkit
from ..ops import reference

IMAGES_A_LAUNCH = 64  # the original's im2col_step, as its layer sets it
KERNELS = torch.ops.ms_detr_im2col  # once they are loaded
Shapes = Sequence[tuple[int, int]]


@functools.cache
def load() -> None:
    """Compile the kernels, or take what was compiled before.

    Raises:
        RuntimeError: nvcc or ninja is missing or of no use, or the compiler fails.
    """
    if reason := why_no_toolkit():
        raise RuntimeError(reason)
    from torch.utils import cpp_extension

    # An environment that wasn't activated has its ninja here.
    os.environ["PATH"] += os.pathsep + str(Path(sys.executable).parent)
    if not cpp_extension.is_ninja_available():
        raise RuntimeError("ninja is missing: pip install ninja")
    cpp_extension.CUDA_HOME = str(find_cuda_home())  # torch guesses worse
    if not torch.cuda.is_available():
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", ARCHITECTURES)
    cpp_extension.load(
        name="ms_detr_im2col",
        sources=[str(Path(__file__).with_suffix(".cu"))],
        extra_cuda_cflags=["-O3"],
        is_python_module=False,
    )


@functools.cache
def why_not() -> str:
    """Compile the kernels; why that was not possible, or ""."""
    try:
        load()
    except (RuntimeError, OSError) as error:
        return str(error).strip().partition("\n")[0]
    return ""


def deformable_attention(
    value: Tensor, level_shapes: Shapes, locations: Tensor, weights: Tensor
) -> Tensor:
    """`ms_detr.ops.deformable_attention` the original way."""
    shapes = on_device(tuple(level_shapes), value.device)
    return _Attention.apply(value, *shapes, locations, weights)


def attention_core(
    value: Tensor, level_shapes: Shapes, references: Tensor, offsets: Tensor, logits: Tensor
) -> Tensor:
    """`ms_detr.ops.fused_deformable_attention` the original way: locations and softmax by torch."""
    shapes, _ = on_device(tuple(level_shapes), value.device)
    locations = sampling_locations(references, offsets, shapes)
    weights = reference.attention_weights(logits)
    return deformable_attention(value, level_shapes, locations, weights)


def sampling_locations(references: Tensor, offsets: Tensor, shapes: Tensor) -> Tensor:
    """`ms_detr.ops.reference.sampling_locations` from shapes (V, 2) that the GPU already has."""
    centers, sizes = references[:, :, None, :, None, :2], references[:, :, None, :, None, 2:]
    if sizes.shape[-1]:
        return centers + offsets / offsets.shape[-2] * sizes * 0.5
    return centers + offsets / shapes.flip(-1)[:, None]


@functools.cache
def on_device(level_shapes: tuple, device: torch.device) -> tuple[Tensor, Tensor]:
    """Shapes (V, 2) and first cells (V,) of the levels, where the kernels read them."""
    shapes = torch.tensor(level_shapes)
    cells = shapes.prod(-1)
    return shapes.to(device), (cells.cumsum(0) - cells).to(device)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> Tensor:
        ctx.save_for_backward(*tensors)
        return KERNELS.forward(*tensors, IMAGES_A_LAUNCH)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple:
        tensors = ctx.saved_tensors
        value, locations, weights = KERNELS.backward(*grads, *tensors, IMAGES_A_LAUNCH)
        return value, None, None, locations, weights
