import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ms_detr.ops import deformable_attention
from ms_detr.ops.reference import deformable_attention as pure_torch

from . import reference
from .inputs import make

IMPLEMENTATIONS = pytest.mark.parametrize("attend", [deformable_attention, pure_torch])


def expected(value, shapes, locations, weights):
    arrays = value.numpy(), shapes, locations.numpy(), weights.numpy()
    return torch.from_numpy(reference.deformable_attention(*arrays))


sizes = st.tuples(st.integers(1, 5), st.integers(1, 5))


@IMPLEMENTATIONS
@settings(max_examples=60)
@given(
    shapes=st.lists(sizes, min_size=1, max_size=3),
    batch=st.integers(1, 2),
    queries=st.integers(1, 3),
    heads=st.integers(1, 3),
    points=st.integers(1, 3),
    channels=st.integers(1, 4),
    seed=st.integers(0, 2**31),
    reach=st.sampled_from([0.0, 0.3, 2.0]),
)
def test_equals_the_loop(attend, shapes, batch, queries, heads, points, channels, seed, reach):
    inputs = make(shapes, batch, queries, heads, points, channels, seed, reach)
    out = attend(*inputs)
    assert out.shape == (batch, queries, heads * channels)
    torch.testing.assert_close(out, expected(*inputs), rtol=0, atol=1e-10)


@IMPLEMENTATIONS
def test_float32_is_close_to_the_loop(attend):
    value, shapes, locations, weights = make([(7, 9), (4, 5), (1, 1)], queries=5, reach=0.2)
    low = value.float(), shapes, locations.float(), weights.float()
    out = attend(*low)
    assert out.dtype == torch.float32
    exact = expected(*(x.double() if torch.is_tensor(x) else x for x in low))
    # A place is off by some roundings of at most 9 cells, a value of [-1, 1] by twice that along x
    # and y; there are 6 samples, of weights below 1.
    atol = 6 * 2 * 2 * 9 * torch.finfo(torch.float32).eps
    torch.testing.assert_close(out.double(), exact, rtol=0, atol=atol)


@IMPLEMENTATIONS
def test_a_cell_centre_reads_that_cell(attend):
    height, width = 3, 5
    value = torch.arange(height * width, dtype=torch.float64).view(1, -1, 1, 1)
    centers = [((c + 0.5) / width, (r + 0.5) / height) for r in range(height) for c in range(width)]
    locations = torch.tensor(centers, dtype=torch.float64).view(1, -1, 1, 1, 1, 2)
    out = attend(value, [(height, width)], locations, torch.ones(1, 15, 1, 1, 1))
    torch.testing.assert_close(out.flatten(), value.flatten())


@IMPLEMENTATIONS
def test_an_outer_edge_reads_half_and_beyond_nothing(attend):
    value = torch.full((1, 4, 1, 1), 8.0)
    places = [(0.0, 0.25), (1.0, 0.25), (0.0, 0.0), (-0.25, 0.25), (0.5, 1.25), (9.0, -7.0)]
    locations = torch.tensor(places).view(1, -1, 1, 1, 1, 2)
    out = attend(value, [(2, 2)], locations, torch.ones(1, len(places), 1, 1, 1))
    assert out.flatten().tolist() == [4.0, 4.0, 2.0, 0.0, 0.0, 0.0]


@IMPLEMENTATIONS
def test_images_and_heads_do_not_mix(attend):
    value, shapes, locations, weights = make([(3, 4), (2, 2)], batch=3, heads=2)
    out = attend(value, shapes, locations, weights)
    for b in range(3):
        for m in range(2):
            alone = attend(
                value[b : b + 1, :, m : m + 1],
                shapes,
                locations[b : b + 1, :, m : m + 1],
                weights[b : b + 1, :, m : m + 1],
            )
            torch.testing.assert_close(alone[0], out[b, :, m * 3 : m * 3 + 3])


@IMPLEMENTATIONS
def test_strides_do_not_matter(attend):
    value, shapes, locations, weights = make([(3, 4), (2, 2)])
    strided = (
        value.transpose(1, 2).contiguous().transpose(1, 2),
        shapes,
        locations.flip(-1).flip(-1).transpose(0, 1).contiguous().transpose(0, 1),
        weights.transpose(2, 4).contiguous().transpose(2, 4),
    )
    torch.testing.assert_close(attend(*strided), attend(value, shapes, locations, weights))


@IMPLEMENTATIONS
def test_gradients(attend):
    shapes = [(3, 4), (1, 1), (2, 3)]
    value, _, locations, weights = make(shapes, batch=1, queries=2, channels=2, reach=0.3)
    # Bilinear interpolation has no derivative where a sample crosses a cell's centre line.
    scale = torch.tensor([(w, h) for h, w in shapes], dtype=torch.float64)[:, None]
    pixels = locations * scale - 0.5
    pixels = pixels.floor() + 0.1 + 0.8 * (pixels - pixels.floor())
    locations = (pixels + 0.5) / scale
    inputs = [x.requires_grad_() for x in (value, locations, weights)]

    def function(value, locations, weights):
        return attend(value, shapes, locations, weights)

    assert torch.autograd.gradcheck(function, inputs)


def test_level_shapes_may_be_any_sequence():
    value, shapes, locations, weights = make([(3, 4), (2, 2)])
    same = deformable_attention(value, tuple(map(tuple, shapes)), locations, weights)
    assert torch.equal(same, deformable_attention(value, shapes, locations, weights))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda v, s, x, w: (v, [(3, 4), (-2, -2)], x, w),
            r"level_shapes must be \(height, width\)",
        ),
        (lambda v, s, x, w: (v, [3, 4, 2, 2], x, w), r"level_shapes must be \(height, width\)"),
        (lambda v, s, x, w: (v, [(3.0, 4.0), (2, 2)], x, w), r"level_shapes must be"),
        (lambda v, s, x, w: (v[0], s, x, w), r"value must be \(B, S, heads, channels\)"),
        (lambda v, s, x, w: (v[:, 1:], s, x, w), r"have 16 cells, value has 15"),
        (lambda v, s, x, w: (v, [(3, 4), (2, 3)], x, w), r"have 18 cells, value has 16"),
        (lambda v, s, x, w: (v, s, x[..., :1], w), r"sampling_locations must be"),
        (lambda v, s, x, w: (v, s, x[:1], w), r"sampling_locations must be .*B=2"),
        (lambda v, s, x, w: (v, s, x[:, :, :1], w), r"sampling_locations must be .*heads=2"),
        (lambda v, s, x, w: (v, s, x[:, :, :, :1], w), r"sampling_locations must be .*levels=2"),
        (lambda v, s, x, w: (v, s, x[0], w), r"sampling_locations must be"),
        (lambda v, s, x, w: (v, s, x, w[..., :1]), r"attention_weights must be \(2, 3, 2, 2, 2\)"),
        (lambda v, s, x, w: (v, s, x, w[:, :1]), r"attention_weights must be"),
    ],
)
def test_shapes_that_do_not_fit(change, message):
    value, shapes, locations, weights = make([(3, 4), (2, 2)])
    with pytest.raises(ValueError, match=message):
        deformable_attention(*change(value, shapes, locations, weights))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v, s, x, w: (v.int(), s, x, w), "value must be float16"),
        (lambda v, s, x, w: (v, s, x.int(), w), "sampling_locations must be floating point"),
        (lambda v, s, x, w: (v, s, x, w.int()), "attention_weights must be floating point"),
    ],
)
def test_wrong_dtypes(change, message):
    with pytest.raises(TypeError, match=message):
        deformable_attention(*change(*make([(3, 4), (2, 2)])))


def test_tensors_of_two_devices():
    value, shapes, locations, weights = make([(3, 4), (2, 2)])
    with pytest.raises(ValueError, match="attention_weights is on meta, value on cpu"):
        deformable_attention(value, shapes, locations, weights.to("meta"))


def test_the_loop_itself():
    """A map of v(x, y) = x + 10 y is read exactly between cell centres."""
    cells = np.array([[[c + 10 * r] for c in range(4)] for r in range(3)], dtype=float)
    for x, y in [(0.3, 0.4), (0.5, 0.5), (0.8, 0.6)]:
        value = reference.bilinear(cells, x, y)[0]
        assert math.isclose(value, (x * 4 - 0.5) + 10 * (y * 3 - 0.5))
