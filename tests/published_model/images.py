"""From images to tokens."""

import math

import torch
import torch.nn.functional as F

from .basics import Grid, sine

BLOCKS = (3, 4, 6, 3)


def batch_norm(state, name, x):
    """Frozen; the published epsilon is 1e-5."""
    parts = ("weight", "bias", "running_mean", "running_var")
    weight, bias, mean, variance = (state[f"{name}.{part}"].view(1, -1, 1, 1) for part in parts)
    return (x - mean) / (variance + 1e-5).sqrt() * weight + bias


def bottleneck(state, name, x, stride):
    """As in torchvision: the 3x3 convolution has the stride."""

    def conv(k, y, **options):
        y = F.conv2d(y, state[f"{name}.conv{k}.weight"], **options)
        return batch_norm(state, f"{name}.bn{k}", y)

    y = conv(1, x).relu()
    y = conv(2, y, stride=stride, padding=1).relu()
    y = conv(3, y)
    if f"{name}.downsample.0.weight" in state:
        x = F.conv2d(x, state[f"{name}.downsample.0.weight"], stride=stride)
        x = batch_norm(state, f"{name}.downsample.1", x)
    return (x + y).relu()


def backbone(state, images):
    """ResNet-50's C3, C4 and C5."""
    name = "backbone.0.body"
    x = F.conv2d(images, state[f"{name}.conv1.weight"], stride=2, padding=3)
    x = F.max_pool2d(batch_norm(state, f"{name}.bn1", x).relu(), 3, 2, 1)
    features = []
    for stage, blocks in enumerate(BLOCKS):
        for block in range(blocks):
            stride = 2 if stage > 0 and block == 0 else 1
            x = bottleneck(state, f"{name}.layer{stage + 1}.{block}", x, stride)
        features.append(x)
    return features[1:]


def neck(state, features):
    """1x1 convolutions, and a 3x3 of stride 2 on the raw C5; 32 groups each."""
    levels = []
    for level, x in enumerate([*features, features[-1]]):
        name = f"input_proj.{level}"
        options = dict(stride=2, padding=1) if level == len(features) else {}
        x = F.conv2d(x, state[f"{name}.0.weight"], state[f"{name}.0.bias"], **options)
        levels.append(F.group_norm(x, 32, state[f"{name}.1.weight"], state[f"{name}.1.bias"]))
    return levels


def position_encoding(mask, dim, dtype):
    """(B, h, w) -> (B, h, w, dim): y before x, half a cell back, over the last count."""
    parts = []
    for axis in (1, 2):
        counts = (~mask).cumsum(axis).to(dtype)
        last = counts.narrow(axis, counts.shape[axis] - 1, 1)
        parts.append(sine((counts - 0.5) / (last + 1e-6) * 2 * math.pi, dim // 2))
    return torch.cat(parts, -1)


def pyramid(state, images, mask):
    """Tokens (B, S, D), their position encoding and the grid."""
    tokens, positions, masks, ratios, shapes = [], [], [], [], []
    for level, x in enumerate(neck(state, backbone(state, images))):
        height, width = x.shape[-2:]
        small = F.interpolate(mask[:, None].to(x.dtype), (height, width))[:, 0].bool()
        position = position_encoding(small, x.shape[1], x.dtype)
        tokens.append(x.flatten(2).transpose(1, 2))
        positions.append((position + state["transformer.level_embed"][level]).flatten(1, 2))
        masks.append(small.flatten(1))
        extent = torch.stack(((~small[:, 0]).sum(1), (~small[:, :, 0]).sum(1)), 1)
        ratios.append(extent / x.new_tensor((width, height)))
        shapes.append((height, width))
    grid = Grid(shapes, torch.cat(masks, 1), torch.stack(ratios, 1))
    return torch.cat(tokens, 1), torch.cat(positions, 1), grid
