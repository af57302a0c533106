"""Encoder, queries, decoder."""

import math

import torch

from .basics import (
    box_head,
    count,
    deformable_attention,
    feedforward,
    inverse_sigmoid,
    layer_norm,
    linear,
    self_attention,
    sine,
)
from .images import pyramid
from .options import CROSS_FIRST, INTERNAL


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


def learned(state, tokens):
    """Queries of one stage: content, position, and a point, which learns."""
    position, content = state["query_embed.weight"].chunk(2, 1)
    point = linear(state, "transformer.reference_points", position).sigmoid()
    return tuple(part.expand(len(tokens), -1, -1) for part in (content, position, point))


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

    first, second = (cross, self_) if options.implementation in CROSS_FIRST else (self_, cross)
    x = internal = first(x)
    x = feedforward(state, name, 1, "norm3", second(x))
    if options.implementation not in ("c", "d"):
        return x, x
    if f"{name}.linear3.weight" in state:
        internal = feedforward(state, name, 3, "norm4", internal)
    return x, internal


def class_head(state, index, x, one_to_many):
    """Implementation (a), and so (b), has class heads for one-to-many."""
    own = f"class_embed_o2m.{index}"
    return linear(
        state, own if one_to_many and f"{own}.weight" in state else own.replace("_o2m", ""), x
    )


def corrected(state, index, x, reference):
    """Boxes from the head's corrections; a point leaves the size to the head alone."""
    start = inverse_sigmoid(reference)
    if start.shape[-1] == 2:
        start = torch.cat((start, torch.zeros_like(start)), -1)
    return (box_head(state, index, x) + start).sigmoid()


def decoder(state, options, x, position, reference, memory, grid):
    """Logits and boxes of all layers by source; both kinds share box heads and references."""
    sources = (
        ["decoder", INTERNAL[options.implementation]] if options.implementation else ["decoder"]
    )
    made = {source: [] for source in sources}
    base = reference  # of the heads: keeps its gradient if the model looks forward twice
    for i in range(count(state, "transformer.decoder.layers.")):
        name = f"transformer.decoder.layers.{i}"
        scaled = torch.cat([grid.ratios] * (reference.shape[-1] // 2), -1)[:, None]
        scaled = reference[:, :, None] * scaled
        x, internal = decoder_layer(state, name, options, x, position, scaled, memory, grid)
        for source, tokens in zip(made, (x, internal), strict=False):
            logits = class_head(state, i, tokens, one_to_many=source != "decoder")
            made[source].append((logits, corrected(state, i, tokens, base)))
        if options.refinement:
            refined = corrected(state, i, x, reference)
            reference = refined.detach()
            base = refined if options.look_forward_twice else reference
    return made


def predict(state, options, images, mask):
    """By source a list of (logits, boxes), one a layer; and the anchors of all tokens or None."""
    tokens, position, grid = pyramid(state, images, mask)
    memory = encoder(state, tokens, position, grid, options.heads)
    if not options.two_stage:
        return decoder(state, options, *learned(state, memory), memory, grid), None
    logits, boxes, anchors = proposals(state, memory, grid)
    queries = select(state, options, logits, boxes)
    made = decoder(state, options, *queries, memory, grid)
    return made | {"encoder": [(logits, boxes.sigmoid())]}, anchors.sigmoid()
