import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ms_detr.layers import SinePositionEncoding
from ms_detr.layers.position import sine_embedding

from . import reference
from .support import padded


@given(
    values=st.lists(st.floats(0, 1), min_size=1, max_size=4),
    channels=st.sampled_from([2, 4, 8, 128]),
    temperature=st.sampled_from([20.0, 10000.0]),
)
def test_sine_embedding_equals_the_loop(values, channels, temperature):
    out = sine_embedding(torch.tensor(values, dtype=torch.float64), channels, temperature)
    expected = reference.sine_embedding(values, channels, temperature)
    np.testing.assert_allclose(out, expected, atol=1e-9)


def test_sine_embedding_is_interleaved_and_keeps_the_order_of_its_values():
    out = sine_embedding(torch.tensor([[0.25, 0.5]], dtype=torch.float64), 4)
    assert out.shape == (1, 8)
    # One turn a unit, then a hundredth of it: sin, cos, sin, cos of each value.
    slow = 2 * np.pi / 100
    expected = [1, 0, np.sin(0.25 * slow), np.cos(0.25 * slow)]
    expected += [0, -1, np.sin(0.5 * slow), np.cos(0.5 * slow)]
    np.testing.assert_allclose(out[0], expected, atol=1e-12)


@settings(max_examples=30)
@given(
    height=st.integers(1, 5),
    width=st.integers(1, 5),
    data=st.data(),
    embed_dim=st.sampled_from([4, 8, 12]),
    temperature=st.sampled_from([20.0, 10000.0]),
    offset=st.sampled_from([-0.5, 0.0]),
)
def test_grid_encoding_equals_the_loop(height, width, data, embed_dim, temperature, offset):
    paddings = [
        padded(height, width, data.draw(st.integers(1, height)), data.draw(st.integers(1, width)))
        for _ in range(2)
    ]
    encode = SinePositionEncoding(embed_dim, temperature, offset)
    out = encode(torch.from_numpy(np.stack(paddings)), torch.float64).numpy()
    assert out.shape == (2, height, width, embed_dim)
    for image, padding in zip(out, paddings, strict=True):
        expected = reference.sine_position(padding, embed_dim, temperature, offset)
        inside = ~np.isnan(expected)
        assert inside[~padding].all()
        np.testing.assert_allclose(image[inside], expected[inside], atol=1e-9)
        assert np.isfinite(image).all()


def test_grid_encoding_does_not_depend_on_the_amount_of_padding():
    encode = SinePositionEncoding(8)
    alone = encode(torch.from_numpy(padded(3, 4, 3, 4))[None])
    inside = encode(torch.from_numpy(padded(5, 9, 3, 4))[None])[:, :3, :4]
    torch.testing.assert_close(inside, alone, rtol=0, atol=1e-6)


def test_embed_dim_must_split_into_pairs_for_two_axes():
    with pytest.raises(ValueError, match="multiple of 4, got 6"):
        SinePositionEncoding(6)
