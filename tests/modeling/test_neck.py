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


def make_neck(num_levels=4, **options):
    return Neck(CHANNELS, DIM, num_levels, SinePositionEncoding(DIM), **options)


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


@pytest.mark.parametrize("ignore_padding", [False, True])
def test_without_biases_it_is_one_whose_biases_are_zero(ignore_padding):
    neck = randomise(make_neck(ignore_padding=ignore_padding))
    bare = randomise(make_neck(ignore_padding=ignore_padding, bias=False))
    left = neck.load_state_dict(bare.state_dict(), strict=False)
    assert left.missing_keys == [
        f"{part}.{k}.0.bias" for part in ("projections", "extra_levels") for k in range(2)
    ]
    with torch.no_grad():
        for name in left.missing_keys:
            neck.get_parameter(name).zero_()
    torch.testing.assert_close(run(bare).tokens, run(neck).tokens)


def test_fewer_levels_than_maps():
    with pytest.raises(ValueError, match=r"num_levels is 1, fewer than .*fine.*coarse"):
        make_neck(1)


# Heights and widths in pixels of the images of a batch. Some cells are but begun, and resizing the
# mask would give the images more cells than they have alone.
SIZES = [(130, 61), (128, 100)]
BATCH = (130, 100)
STRIDES = {"fine": 8, "coarse": 16}


def cells(size, name):
    return [-(-side // STRIDES[name]) for side in size]


def batch():
    maps = {
        name: random(2, channels, *cells(BATCH, name), seed=channels)
        for name, channels in CHANNELS.items()
    }
    return maps, torch.from_numpy(np.stack([padded(*BATCH, *size) for size in SIZES]))


def alone(index):
    """One image of the batch without its padding."""
    maps, mask = batch()
    own = slice(index, index + 1)
    cut = {}
    for name, x in maps.items():
        height, width = cells(SIZES[index], name)
        cut[name] = x[own, :, :height, :width]
    height, width = SIZES[index]
    return cut, mask[own, :height, :width]


def weighed(out, index):
    """An image's tokens, and a sum of them to differentiate."""
    tokens = out.tokens[index, ~out.grid.padding_mask[index]]
    return tokens, (tokens * random(*tokens.shape, seed=5)).sum()


@pytest.mark.parametrize("index", [0, 1])
def test_without_padding_an_image_is_in_a_batch_what_it_is_alone(index):
    neck = randomise(make_neck(ignore_padding=True))
    published = make_neck().double()
    published.load_state_dict(neck.state_dict())  # the key changes no name
    single = neck(*alone(index))
    assert not single.grid.padding_mask.any()
    expected, total = weighed(single, 0)
    gradients = torch.autograd.grad(total, [*neck.parameters()][1:])
    out = neck(*batch())
    found, total = weighed(out, index)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    others = torch.autograd.grad(total, [*neck.parameters()][1:])
    for gradient, other in zip(others, gradients, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-10, atol=1e-10)
    assert (out.tokens[out.grid.padding_mask] == 0).all()
    # Without any padding it is the published norm, which in a batch gives something else.
    torch.testing.assert_close(published(*alone(index)).tokens[0], expected, rtol=1e-12, atol=1e-12)
    other = weighed(published(*batch()), index)[0]
    assert len(other) > len(expected)
    assert (other[:5] - expected[:5]).abs().max() > 0.005


@pytest.mark.parametrize("index", [0, 1])
def test_without_padding_places_are_those_of_the_image_alone(index):
    neck = make_neck(ignore_padding=True).double()
    out, single = neck(*batch()), neck(*alone(index))
    inside = ~out.grid.padding_mask[index]
    for found, expected in (
        (out.position[index, inside], single.position[0]),
        (out.grid.centers()[index, inside], single.grid.centers()[0]),
    ):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    assert [tuple(x) for x in single.grid.valid_ratios[0].tolist()] == [(1.0, 1.0)] * 4


def test_maps_without_a_stride():
    neck = make_neck(1 + 1, ignore_padding=True)
    maps, mask = batch()
    with pytest.raises(ValueError, match=r"ignore_padding .* need maps .* 17 cells of 137 pixels"):
        neck(maps, torch.nn.functional.pad(mask, (0, 0, 0, 7)))


def test_without_padding_equals_the_loop():
    neck = randomise(make_neck(2, ignore_padding=True))
    params = parameters(neck)
    out = neck(*batch())
    for index in range(2):
        maps, _ = alone(index)
        tokens = []
        for level, name in enumerate(CHANNELS):
            conv, norm = (below(params, f"projections.{level}.{part}") for part in (0, 1))
            x = reference.group_norm(reference.convolve(maps[name][0].numpy(), conv, 1), norm)
            tokens.append(x.reshape(DIM, -1).T)
        found = weighed(out, index)[0].detach()
        np.testing.assert_allclose(found, np.concatenate(tokens), atol=1e-9)


class Tokens(torch.nn.Module):
    """A neck's tokens, for tracing."""

    def __init__(self, neck):
        super().__init__()
        self.neck = neck

    def forward(self, fine, coarse, mask):
        return self.neck(dict(fine=fine, coarse=coarse), mask).tokens


@pytest.mark.parametrize("ignore_padding", [False, True])
def test_export(ignore_padding):
    module = Tokens(randomise(make_neck(ignore_padding=ignore_padding))).eval()
    maps, mask = batch()
    inputs = (*maps.values(), mask)
    program = torch.export.export(module, inputs).module()
    torch.testing.assert_close(program(*inputs), module(*inputs))


def test_under_autocast_the_norm_stays_single():
    maps, mask = batch()
    maps = {name: x.float() for name, x in maps.items()}
    neck = randomise(make_neck(ignore_padding=True)).float()
    exact = neck(maps, mask).tokens
    with torch.autocast("cpu", torch.bfloat16):
        half = neck(maps, mask).tokens
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, exact, rtol=0.05, atol=0.05)
