"""Small random parts for tests of the layers and of what is built from them."""

import numpy as np
import torch

from ms_detr.structures import Memory, TokenGrid


def randomise(module, seed=0, scale=0.5):
    """Draw every parameter anew in float64, so that no zero of an initialisation hides a term."""
    generator = torch.Generator().manual_seed(seed)
    module.double()
    with torch.no_grad():
        for name, parameter in sorted(module.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(noise * scale + (1 if "norm.weight" in name else 0))
    return module


def random(*shape, seed=0):
    """Standard normal values in float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def padded(height, width, valid_height, valid_width):
    """Mask (H, W), True at the bottom and right of the valid part."""
    mask = np.ones((height, width), bool)
    mask[:valid_height, :valid_width] = False
    return mask


def make_grid(paddings):
    """A grid from `paddings[image][level]`, masks (H, W)."""
    ratios = [[((~mask[0]).mean(), (~mask[:, 0]).mean()) for mask in levels] for levels in paddings]
    flat = [np.concatenate([mask.ravel() for mask in levels]) for levels in paddings]
    return TokenGrid(
        level_shapes=tuple(mask.shape for mask in paddings[0]),
        padding_mask=torch.from_numpy(np.stack(flat)),
        valid_ratios=torch.tensor(ratios, dtype=torch.float64),
    )


def on_levels(places, paddings):
    """Places (B, Q, 2 or 4) of the images as they lie on every padded level, (B, Q, V, 2 or 4)."""
    ratios = [[((~mask[0]).mean(), (~mask[:, 0]).mean()) for mask in levels] for levels in paddings]
    scale = np.tile(np.array(ratios)[:, None], places.shape[-1] // 2)
    return places.numpy()[:, :, None] * scale


def make_memory(paddings, channels, seed=0):
    """Random memory on a grid; padding holds values too, which nobody may read."""
    grid = make_grid(paddings)
    return Memory(random(*grid.padding_mask.shape, channels, seed=seed), grid)
