"""The published MS-DETR and its two-stage baseline, slowly, from a checkpoint's own names.

Plain functions over a state dict as the authors save it, written from a description of their code
and without this project's modules: what `tests/test_parity.py` measures the project with.
Boxes are (cx, cy, w, h) in fractions of the unpadded image; a mask is True in padding.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment

BLOCKS = (3, 4, 6, 3)
# Class, L1, GIoU. The one-to-one cost keeps 2 for the class where MS-DETR's loss has 1.
LOSS_WEIGHTS = {
    True: {"o2o": (1, 5, 2), "o2m": (2, 5, 2), "encoder": (2, 5, 2)},
    False: {"o2o": (2, 5, 2), "encoder": (2, 5, 2)},
}
# MS-DETR's one-to-many matcher: threshold, queries of an object, weights of IoU and class, quota.
THRESHOLD, TOP_K, IOU_WEIGHT, CLASS_WEIGHT, QUOTA = 0.4, 6, 0.7, 0.3, 0.25


@dataclass(frozen=True)
class Options:
    """ms_detr: cross-attention first and mixed supervision; the other two are the ++."""

    queries: int
    heads: int = 8
    ms_detr: bool = True
    mixed_selection: bool = False
    look_forward_twice: bool = False


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


def cell_centres(grid):
    """Cell centres over the cells that are valid, (B, S, 2)."""
    centres = []
    for level, (height, width) in enumerate(grid.shapes):
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        cells = torch.stack((x, y), -1).view(1, -1, 2).to(grid.ratios) + 0.5
        valid = grid.ratios[:, level] * grid.ratios.new_tensor((width, height))
        centres.append(cells / valid.round()[:, None])
    return torch.cat(centres, 1)


def encoder(state, x, position, grid, heads):
    reference = cell_centres(grid)[:, :, None] * grid.ratios[:, None]
    for i in range(count(state, "transformer.encoder.layers.")):
        name = f"transformer.encoder.layers.{i}"
        attended = deformable_attention(
            state, f"{name}.self_attn", x + position, reference, x, grid, heads
        )
        x = layer_norm(state, f"{name}.norm1", x + attended)
        x = feedforward(state, name, 1, "norm2", x)
    return x


def box_head(state, index, x):
    name = f"bbox_embed.{index}.layers"
    x = linear(state, f"{name}.0", x).relu()
    x = linear(state, f"{name}.1", x).relu()
    return linear(state, f"{name}.2", x)


def proposals(state, memory, grid):
    """Logits, unactivated boxes and anchors of all tokens; invalid anchors are (1, 1, 1, 1)."""
    centres = cell_centres(grid)
    cells = torch.tensor([height * width for height, width in grid.shapes])
    sizes = 0.05 * 2 ** torch.arange(len(cells)).to(centres).repeat_interleave(cells)
    boxes = torch.cat((centres, sizes[:, None].expand_as(centres)), -1)
    valid = ((boxes > 0.01) & (boxes < 0.99)).all(-1) & ~grid.mask
    anchors = torch.log(boxes / (1 - boxes)).masked_fill(~valid[..., None], torch.inf)
    tokens = memory.masked_fill(~valid[..., None], 0)
    tokens = linear(state, "transformer.enc_output", tokens)
    tokens = layer_norm(state, "transformer.enc_output_norm", tokens)
    head = count(state, "class_embed.") - 1
    logits = linear(state, f"class_embed.{head}", tokens)
    return logits, box_head(state, head, tokens) + anchors, anchors


def select(state, options, logits, boxes):
    """Queries from the best tokens by channel 0: content, position, reference (no gradient)."""
    best = logits[..., 0].topk(options.queries, dim=1).indices
    reference = boxes.detach().gather(1, best[..., None].expand(-1, -1, 4)).sigmoid()
    dim = state["transformer.level_embed"].shape[1]
    embedding = sine(reference * 2 * math.pi, dim // 2).flatten(2)
    embedding = linear(state, "transformer.pos_trans", embedding)
    embedding = layer_norm(state, "transformer.pos_trans_norm", embedding)
    position, content = embedding.chunk(2, -1)
    if options.mixed_selection:
        content = state["query_embed.weight"].expand_as(position)
    return content, position, reference


def decoder_layer(state, name, options, x, position, reference, memory, grid):
    """The next layer's input, and what the one-to-many heads see."""

    def cross(x):
        attended = deformable_attention(
            state, f"{name}.cross_attn", x + position, reference, memory, grid, options.heads
        )
        return layer_norm(state, f"{name}.norm1", x + attended)

    def self_(x):
        attended = self_attention(state, f"{name}.self_attn", x, position, options.heads)
        return layer_norm(state, f"{name}.norm2", x + attended)

    if not options.ms_detr:
        return feedforward(state, name, 1, "norm3", cross(self_(x))), None
    x = internal = cross(x)
    if f"{name}.linear3.weight" in state:
        internal = feedforward(state, name, 3, "norm4", internal)
    return feedforward(state, name, 1, "norm3", self_(x)), internal


def decoder(state, options, x, position, reference, memory, grid):
    """Logits and boxes of all layers by source; both kinds share heads and references."""
    made = {"decoder": [], "decoder.cross_attention": []}
    ratios = grid.ratios.repeat(1, 1, 2)[:, None]
    base = reference  # of the heads: keeps its gradient if the model looks forward twice
    for i in range(count(state, "transformer.decoder.layers.")):
        name = f"transformer.decoder.layers.{i}"
        scaled = reference[:, :, None] * ratios
        x, internal = decoder_layer(state, name, options, x, position, scaled, memory, grid)
        for source, tokens in zip(made, (x, internal), strict=True):
            if tokens is not None:
                boxes = (box_head(state, i, tokens) + inverse_sigmoid(base)).sigmoid()
                made[source].append((linear(state, f"class_embed.{i}", tokens), boxes))
        refined = (box_head(state, i, x) + inverse_sigmoid(reference)).sigmoid()
        reference = refined.detach()
        base = refined if options.look_forward_twice else reference
    return made


def predict(state, options, images, mask):
    """By source a list of (logits, boxes), one a layer; and the anchors of the encoder's."""
    tokens, position, grid = pyramid(state, images, mask)
    memory = encoder(state, tokens, position, grid, options.heads)
    logits, boxes, anchors = proposals(state, memory, grid)
    queries = select(state, options, logits, boxes)
    made = decoder(state, options, *queries, memory, grid)
    made["encoder"] = [(logits, boxes.sigmoid())]
    return {source: layers for source, layers in made.items() if layers}, anchors.sigmoid()


def overlaps(a, b):
    """IoU and GIoU of all pairs, no epsilon."""
    (a0, a1), (b0, b1) = ((x[:, :2] - x[:, 2:] / 2, x[:, :2] + x[:, 2:] / 2) for x in (a, b))
    a0, a1 = a0[:, None], a1[:, None]
    inner = (torch.minimum(a1, b1) - torch.maximum(a0, b0)).clamp(min=0).prod(-1)
    union = (a1 - a0).prod(-1) + (b1 - b0).prod(-1) - inner
    hull = (torch.maximum(a1, b1) - torch.minimum(a0, b0)).prod(-1)
    return inner / union, inner / union - (hull - union) / hull


def hungarian(logits, boxes, target, class_cost):
    """Pairs (queries, objects) of one image for the cost (class_cost, 5, 2)."""
    p = logits.sigmoid()[:, target["labels"]]
    positive = 0.25 * (1 - p) ** 2 * -(p + 1e-8).log()
    negative = 0.75 * p**2 * -(1 - p + 1e-8).log()
    distance = (boxes[:, None] - target["boxes"]).abs().sum(-1)
    cost = (
        5 * distance - 2 * overlaps(boxes, target["boxes"])[1] + class_cost * (positive - negative)
    )
    queries, objects = linear_sum_assignment(cost.numpy())
    return torch.as_tensor(queries), torch.as_tensor(objects)


def one_to_many(logits, boxes, target):
    """MS-DETR's matcher, pairs by ascending score; refuses where the published one draws lots."""
    if len(target["labels"]) == 0:
        return torch.zeros(2, 0, dtype=torch.int64)
    iou = overlaps(target["boxes"], boxes)[0]
    score = IOU_WEIGHT * iou + CLASS_WEIGHT * logits.sigmoid()[:, target["labels"]].T
    best, owner = score.max(0)
    positive = best >= THRESHOLD
    positive[score.argmax(1)] = True  # the best query of every object, whoever owns it
    assert positive.sum() <= int(QUOTA * len(boxes)), "beyond the quota the choice is random"
    pairs = []
    for g, row in enumerate(score):
        number = min(int((positive & (owner == g)).sum()), TOP_K)
        ranked = row.argsort(descending=True)[:number]
        pairs += [(float(row[q]), int(q), g) for q in ranked]
    pairs.sort()
    return torch.tensor([(q, g) for _, q, g in pairs]).view(-1, 2).T


def focal_loss(logits, wanted):
    p = logits.sigmoid()
    right = torch.where(wanted, p, 1 - p)
    entropy = F.binary_cross_entropy_with_logits(logits, wanted.to(p), reduction="none")
    return (torch.where(wanted, 0.25, 0.75) * (1 - right) ** 2 * entropy).sum()


def set_losses(logits, boxes, targets, pairs):
    """Class, L1, GIoU over the number of objects, which also divides one-to-many losses.

    Of pairs with one query the last gives the class; boxes learn from all of them.
    """
    objects = max(1, sum(len(target["labels"]) for target in targets))
    classes = torch.full(logits.shape[:2], -1)
    distance, giou = 0, 0
    for image, (target, (queries, owners)) in enumerate(zip(targets, pairs, strict=True)):
        for query, g in zip(queries, owners, strict=True):
            classes[image, query] = target["labels"][g]
        mine, wanted = boxes[image, queries], target["boxes"][owners]
        distance = distance + (mine - wanted).abs().sum()
        giou = giou + (1 - overlaps(mine, wanted)[1].diagonal()).sum()
    wanted = classes[..., None] == torch.arange(logits.shape[-1])
    return focal_loss(logits, wanted) / objects, distance / objects, giou / objects


def match(term, logits, boxes, targets, options, anchors):
    """Pairs of every image, no gradient."""
    logits, boxes = logits.detach(), boxes.detach()
    if term == "o2m":
        return [one_to_many(*image) for image in zip(logits, boxes, targets, strict=True)]
    class_cost = 2
    if term == "encoder" and options.ms_detr:
        class_cost, boxes = 0, anchors  # as released: geometry alone, invalid anchors included
    return [hungarian(*image, class_cost) for image in zip(logits, boxes, targets, strict=True)]


def losses(made, anchors, targets, options):
    """Weighted losses by this project's names, and the pairs they come from by term and layer."""
    sources = {"o2o": "decoder", "o2m": "decoder.cross_attention", "encoder": "encoder"}
    result, matched = {}, {}
    for term, weights in LOSS_WEIGHTS[options.ms_detr].items():
        goals = targets
        if term == "encoder":
            goals = [{**target, "labels": torch.zeros_like(target["labels"])} for target in targets]
        for layer, (logits, boxes) in enumerate(made[sources[term]]):
            pairs = match(term, logits, boxes, goals, options, anchors)
            values = set_losses(logits, boxes, goals, pairs)
            end = "" if term == "encoder" else f"/{layer}"
            for name, weight, value in zip(("class", "bbox", "giou"), weights, values, strict=True):
                result[f"{term}/loss_{name}{end}"] = weight * value
            matched[f"{term}{end}"] = pairs
    return result, matched
