"""Arithmetic on the tensors of a state dict."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class Grid:
    """Level shapes (h, w), the masks of the levels in a row (B, S), valid ratios (B, levels, 2)."""

    shapes: list
    mask: torch.Tensor
    ratios: torch.Tensor


def count(state, prefix):
    """How many numbered modules follow the prefix."""
    starts = [name.removeprefix(prefix) for name in state if name.startswith(prefix)]
    return 1 + max(int(start.split(".")[0]) for start in starts)


def linear(state, name, x):
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def layer_norm(state, name, x):
    variance = x.var(-1, correction=0, keepdim=True)
    x = (x - x.mean(-1, keepdim=True)) / (variance + 1e-5).sqrt()
    return x * state[f"{name}.weight"] + state[f"{name}.bias"]


def inverse_sigmoid(x, epsilon=1e-5):
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=epsilon) / (1 - x).clamp(min=epsilon))


def sine(values, size):
    """(...) angles -> (..., size), sine and cosine in turn, temperature 10000."""
    j = torch.arange(size)
    angles = values[..., None] / 10000 ** (2 * (j // 2).to(values) / size)
    return torch.where(j % 2 == 0, angles.sin(), angles.cos())


def deformable_attention(state, name, query, reference, memory, grid, heads):
    """`reference` (B, Q, levels, 2 or 4), in fractions of the padded levels."""
    batch, queries, dim = query.shape
    levels = len(grid.shapes)
    value = linear(state, f"{name}.value_proj", memory).masked_fill(grid.mask[..., None], 0)
    offsets = linear(state, f"{name}.sampling_offsets", query)
    offsets = offsets.view(batch, queries, heads, levels, -1, 2)
    points = offsets.shape[4]
    weights = linear(state, f"{name}.attention_weights", query)
    weights = weights.view(batch, queries, heads, -1).softmax(-1).view(offsets.shape[:-1])
    result, start = 0, 0
    for level, (height, width) in enumerate(grid.shapes):
        around = reference[:, :, level, None, None]
        if around.shape[-1] == 2:
            unit = query.new_tensor((1 / width, 1 / height))
        else:
            unit = around[..., 2:] * 0.5 / points
        where = around[..., :2] + offsets[:, :, :, level] * unit
        cells = value[:, start : start + height * width]
        cells = cells.view(batch, height, width, heads, dim // heads).permute(0, 3, 4, 1, 2)
        where = where.transpose(1, 2).flatten(0, 1) * 2 - 1
        sampled = F.grid_sample(cells.flatten(0, 1), where, align_corners=False)
        share = weights[:, :, :, level].transpose(1, 2).flatten(0, 1)
        result = result + (sampled * share[:, None]).sum(-1)
        start += height * width
    return linear(state, f"{name}.output_proj", result.reshape(batch, dim, queries).transpose(1, 2))


def self_attention(state, name, x, position, heads):
    """Softmax attention; query and key have the position, the value has not."""
    weights = state[f"{name}.in_proj_weight"].chunk(3)
    biases = state[f"{name}.in_proj_bias"].chunk(3)
    sources = (x + position, x + position, x)
    q, k, v = (
        (source @ weight.T + bias).unflatten(-1, (heads, -1)).transpose(1, 2)
        for source, weight, bias in zip(sources, weights, biases, strict=True)
    )
    shares = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
    return linear(state, f"{name}.out_proj", (shares @ v).transpose(1, 2).flatten(2))


def feedforward(state, name, first, norm, x):
    inner = linear(state, f"{name}.linear{first}", x).relu()
    x = x + linear(state, f"{name}.linear{first + 1}", inner)
    return layer_norm(state, f"{name}.{norm}", x)


def box_head(state, index, x):
    name = f"bbox_embed.{index}.layers"
    x = linear(state, f"{name}.0", x).relu()
    x = linear(state, f"{name}.1", x).relu()
    return linear(state, f"{name}.2", x)
