import math

import numpy as np
import pytest
import torch

from ms_detr.layers import SinePositionEncoding
from ms_detr.modeling import Neck, SingleScaleNeck

from ..layers.reference import below, parameters, sine_position
from ..layers.support import padded, random, randomise
from . import reference

CHANNELS = {"fine": 3, "coarse": 5}
DIM = 32


def make_neck(num_levels=4):
    return Neck(CHANNELS, DIM, num_levels, SinePositionEncoding(DIM))


def features():
    return {
        "unused": random(2, 1, 9, 9),
        "fine": random(2, 3, 7, 10, seed=1),
        "coarse": random(2, 5, 4, 5, seed=2),
    }


def masks():
    return [padded(56, 80, 56, 61), padded(56, 80, 33, 80)]


def run(neck):
    return neck(features(), torch.from_numpy(np.stack(masks())))


SHAPES = [(7, 10), (4, 5), (2, 3), (1, 2)]


def test_tokens_equal_the_loop():
    """The third level comes from the raw coarsest map, the fourth from the third's output."""
    neck = randomise(make_neck())
    params = parameters(neck)
    out = run(neck)
    assert out.grid.level_shapes == tuple(SHAPES)
    for b in range(2):
        fine, coarse = (features()[name][b].numpy() for name in CHANNELS)

        def project(x, name, stride):
            conv, norm = below(params, f"{name}.0"), below(params, f"{name}.1")
            return reference.group_norm(reference.convolve(x, conv, stride), norm)

        maps = [project(fine, "projections.0", 1), project(coarse, "projections.1", 1)]
        maps.append(project(coarse, "extra_levels.0", 2))
        maps.append(project(maps[-1], "extra_levels.1", 2))
        tokens = np.concatenate([x.reshape(DIM, -1).T for x in maps])
        np.testing.assert_allclose(out.tokens[b].detach(), tokens, atol=1e-9)


def test_masks_ratios_and_positions_equal_the_loop():
    neck = randomise(make_neck())
    out = run(neck)
    level_embedding = neck.level_embedding.detach().numpy()
    for b, mask in enumerate(masks()):
        levels = [reference.resize_mask(mask, *shape) for shape in SHAPES]
        flat = np.concatenate([level.ravel() for level in levels])
        assert (out.grid.padding_mask[b].numpy() == flat).all()
        assert flat.any()
        ratios = [reference.valid_ratio(level) for level in levels]
        np.testing.assert_allclose(out.grid.valid_ratios[b], ratios, atol=1e-12)
        position = np.concatenate(
            [
                (sine_position(level, DIM) + level_embedding[i]).reshape(-1, DIM)
                for i, level in enumerate(levels)
            ]
        )
        inside = ~flat
        np.testing.assert_allclose(out.position[b].detach()[inside], position[inside], atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_counts_and_places_in_single(dtype):
    """bfloat16 can't tell 257 cells from 256."""
    neck = randomise(Neck({"fine": 3}, DIM, 1, SinePositionEncoding(DIM)))
    mask = torch.from_numpy(padded(1, 300, 1, 299))[None]

    def run(dtype):
        return neck.to(dtype)({"fine": torch.zeros(1, 3, 1, 300, dtype=dtype)}, mask)

    exact, half = run(torch.float32), run(dtype)
    assert half.position.dtype == half.tokens.dtype == dtype
    torch.testing.assert_close(half.grid.valid_ratios, exact.grid.valid_ratios, rtol=0, atol=0)
    torch.testing.assert_close(half.grid.centers(), exact.grid.centers(), rtol=0, atol=0)
    rounding = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(half.position.float(), exact.position, rtol=0, atol=rounding)


def test_no_more_levels_than_maps():
    assert run(make_neck(2).double()).grid.level_shapes == ((7, 10), (4, 5))


def test_a_single_scale_equals_the_loop():
    """A bare convolution, and no embedding of the level."""
    neck = randomise(SingleScaleNeck({"coarse": 5}, DIM, SinePositionEncoding(DIM, 20.0, 0.0)))
    params = parameters(neck)
    out = run(neck)
    assert out.grid.level_shapes == ((4, 5),)
    for b, mask in enumerate(masks()):
        x = reference.convolve(features()["coarse"][b].numpy(), below(params, "projection"), 1)
        np.testing.assert_allclose(out.tokens[b].detach(), x.reshape(DIM, -1).T, atol=1e-9)
        level = reference.resize_mask(mask, 4, 5)
        inside = ~level.ravel()
        assert (out.grid.padding_mask[b].numpy() == ~inside).all()
        position = sine_position(level, DIM, 20.0, 0.0).reshape(-1, DIM)
        np.testing.assert_allclose(out.position[b][inside], position[inside], atol=1e-9)


def test_a_single_scale_is_one_map():
    with pytest.raises(ValueError, match=r"one scale needs one backbone map, not .*fine.*coarse"):
        SingleScaleNeck(CHANNELS, DIM, SinePositionEncoding(DIM))


def test_start():
    torch.manual_seed(0)
    neck = make_neck()
    for name, kernel in (("projections", 1), ("extra_levels", 9)):
        for project in getattr(neck, name):
            conv = project[0]
            bound = math.sqrt(6 / ((conv.in_channels + conv.out_channels) * kernel))
            assert 0.85 * bound < conv.weight.abs().max() <= bound
            assert conv.bias.abs().max() == 0
    assert neck.level_embedding.std().item() == pytest.approx(1, rel=0.15)


def test_fewer_levels_than_maps():
    with pytest.raises(ValueError, match=r"num_levels is 1, fewer than .*fine.*coarse"):
        make_neck(1)
