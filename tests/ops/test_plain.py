"""Operators that stand for others in exported graphs, against those."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from ms_detr import ops
from ms_detr.ops.plain import PlainOperators, grid_sample_by_gather, interpolate

from .inputs import make, make_fused, needs_compiled

SHAPES = ((5, 7), (3, 4), (2, 1))
EXACT = dict(rtol=1e-12, atol=1e-12)


@needs_compiled
@pytest.mark.parametrize("gather", [False, True])
def test_deformable_attention_is_the_compiled_one(gather):
    inputs = make(SHAPES)
    expected = ops.deformable_attention(*inputs)
    with PlainOperators(gather):
        made = ops.deformable_attention(*inputs)
    torch.testing.assert_close(made, expected, **EXACT)


@needs_compiled
@pytest.mark.parametrize("gather", [False, True])
@pytest.mark.parametrize("terms", [2, 4])
def test_fused_deformable_attention_is_the_compiled_one(gather, terms):
    inputs = make_fused(SHAPES, terms)
    expected = ops.fused_deformable_attention(*inputs)
    with PlainOperators(gather):
        made = ops.fused_deformable_attention(*inputs)
    torch.testing.assert_close(made, expected, **EXACT)


class Calls(torch.overrides.TorchFunctionMode):
    """Notes what is called."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.names.add(getattr(func, "__name__", str(func)))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("gather", [False, True])
def test_what_is_called(gather):
    """Neither our operator, nor grid_sample where it is to be gathers."""
    with Calls() as calls, PlainOperators(gather):
        ops.fused_deformable_attention(*make_fused(SHAPES, 4))
    assert ("grid_sample" in calls.names) != gather
    assert not any("deformable" in name for name in calls.names)
    exported = torch.export.export(
        Sampled(gather), (torch.rand(1, 2, 4, 5), torch.rand(1, 3, 3, 2))
    )
    targets = {str(node.target) for node in exported.graph.nodes}
    assert ("aten.gather.default" in targets) == gather
    assert ("aten.grid_sampler.default" in targets) != gather


class Sampled(torch.nn.Module):
    def __init__(self, gather):
        super().__init__()
        self.gather = gather

    def forward(self, maps, grid):
        with PlainOperators(self.gather):
            return F.grid_sample(maps, grid, align_corners=False)


@given(
    st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**31), st.sampled_from([0.5, 1.0, 3.0])
)
def test_gathers_are_grid_samples(height, width, seed, reach):
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(2, 3, height, width, generator=generator, dtype=torch.float64)
    grid = torch.rand(2, 4, 3, 2, generator=generator, dtype=torch.float64) * 2 * reach - reach
    edges = torch.tensor([[-1.0, -1.0], [1.0, 1.0], [0.0, 1.0]], dtype=torch.float64)
    grid[:, 0] = edges
    expected = F.grid_sample(maps, grid, align_corners=False)
    torch.testing.assert_close(grid_sample_by_gather(maps, grid), expected, **EXACT)


@pytest.mark.parametrize("mask", ["none", "bool", "float"])
def test_attention_as_two_products(mask):
    query, key, value = (torch.randn(2, 3, n, 4, dtype=torch.float64) for n in (5, 6, 6))
    shown = torch.rand(2, 1, 5, 6) > 0.4
    shown[..., 0] = True
    masks = {"none": None, "bool": shown, "float": torch.randn(2, 1, 5, 6, dtype=torch.float64)}
    expected = F.scaled_dot_product_attention(query, key, value, masks[mask])
    with PlainOperators():
        made = F.scaled_dot_product_attention(query, key, value, masks[mask])
    torch.testing.assert_close(made, expected, **EXACT)


@pytest.mark.parametrize(
    "options", [{"mode": "nearest"}, {"padding_mode": "border"}, {"align_corners": True}], ids=str
)
def test_other_samples_are_no_gathers(options):
    with pytest.raises(NotImplementedError, match="bilinear"):
        grid_sample_by_gather(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 1, 2), **options)


def test_nearest_cells_are_the_same_at_all_sizes():
    """A runtime that divides the other way round finds others, at 99 to 33 for one."""
    for known in range(1, 130):
        x = torch.arange(known, dtype=torch.float32).expand(1, 1, 2, -1)
        for cells in range(1, 130):
            expected = F.interpolate(x, (3, cells))
            assert torch.equal(interpolate(x, (3, cells)), expected), (known, cells)


@pytest.mark.parametrize(
    "options",
    [
        {"size": (5, 6), "mode": "bilinear", "align_corners": False},
        {"scale_factor": 2.0},
        {"size": (2, 9), "mode": "area"},
    ],
    ids=str,
)
def test_other_interpolations_stay(options):
    x = torch.rand(1, 2, 4, 3)
    expected = F.interpolate(x, **options)
    with PlainOperators():
        assert torch.equal(F.interpolate(x, **options), expected)
