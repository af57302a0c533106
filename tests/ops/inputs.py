"""Random inputs of the operator, in float64."""

import pytest
import torch

from ms_detr.ops import reference, status

needs_compiled = pytest.mark.skipif(not status().compiled, reason=f"no operator: {status().reason}")


def make(shapes, batch=2, queries=3, heads=2, points=2, channels=3, seed=0, reach=1.0):
    """Value, shapes, locations and weights; locations reach `reach` images beyond the image."""
    generator = torch.Generator().manual_seed(seed)

    def rand(*size):
        return torch.rand(size, generator=generator, dtype=torch.float64)

    cells = sum(height * width for height, width in shapes)
    value = rand(batch, cells, heads, channels) * 2 - 1
    locations = rand(batch, queries, heads, len(shapes), points, 2) * (1 + 2 * reach) - reach
    weights = rand(batch, queries, heads, len(shapes), points)
    return value, shapes, locations, weights


def make_fused(shapes, terms, batch=2, queries=3, heads=2, points=2, channels=3, seed=0):
    """Value, shapes, references (points or boxes), offsets of some cells, logits."""
    value, _, locations, weights = make(shapes, batch, queries, heads, points, channels, seed, 0.2)
    generator = torch.Generator().manual_seed(seed + 1)
    size = (batch, queries, len(shapes), terms)
    references = torch.rand(size, generator=generator, dtype=torch.float64)
    offsets = (locations - 0.5) * 6
    return value, shapes, references, offsets, weights * 8 - 4


def off_edges(shapes, locations):
    """Move locations to at least a thousandth of a cell from where interpolation has a kink."""
    sizes = torch.tensor([(w, h) for h, w in shapes], dtype=locations.dtype)[:, None]
    pixels = locations * sizes - 0.5
    fraction = (pixels - pixels.floor()).clamp(2e-3, 1 - 2e-3)
    return (pixels.floor() + fraction + 0.5) / sizes


def unfused(value, shapes, references, offsets, logits):
    """The fused operator as its parts in plain torch."""
    locations = reference.sampling_locations(references, offsets, shapes)
    weights = logits.flatten(3).softmax(-1).view_as(logits)
    return reference.deformable_attention(value, shapes, locations, weights)


def results(function, *inputs, seed=0, grad_dtype=torch.float64):
    """Output and the gradients of all tensors, for a random gradient of the output.

    That one is rounded to `grad_dtype` and then to the output's dtype.
    """
    leaves = [x.detach().clone().requires_grad_() if torch.is_tensor(x) else x for x in inputs]
    out = function(*leaves)
    generator = torch.Generator().manual_seed(seed)
    grad = torch.randn(out.shape, generator=generator, dtype=torch.float64).to(grad_dtype).to(out)
    tensors = [x for x in leaves if torch.is_tensor(x)]
    grads = torch.autograd.grad(out, tensors, grad)
    return out.detach(), *grads
