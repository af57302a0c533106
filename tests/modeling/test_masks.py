"""Mask branches against slow loops in float64, and pasting."""

import math
from dataclasses import dataclass

import pytest
import torch
from torch.nn import functional as F

from ms_detr.layers.points import sample
from ms_detr.modeling import AttentionBranch, BoxPrior, DotProductBranch, paste_masks
from ms_detr.structures import Memory, Predictions, PredictionSet, QueryMasks, TokenGrid

LEVELS = ((8, 12), (4, 6), (2, 3))
C, QUERIES, BATCH, LAYERS = 32, 5, 2, 3
CHANNELS = {"fine": 6, "middle": 8, "coarse": 10}


pytestmark = pytest.mark.usefixtures("float64")


def make_inputs():
    tokens = sum(h * w for h, w in LEVELS)
    padding = torch.zeros(BATCH, tokens, dtype=torch.bool)
    padding[1, -1] = True  # one cell of the coarsest level
    memory = Memory(
        torch.randn(BATCH, tokens, C), TokenGrid(LEVELS, padding, torch.ones(BATCH, 3, 2))
    )
    sizes = {"fine": (17, 24), "middle": (9, 12), "coarse": (4, 6)}
    features = {name: torch.randn(BATCH, CHANNELS[name], *size) for name, size in sizes.items()}
    states = torch.randn(LAYERS, BATCH, QUERIES, C)
    return features, memory, states


def prior():
    made = BoxPrior(C, slope=7.0)
    torch.nn.init.normal_(made.coefficients.weight)
    torch.nn.init.normal_(made.coefficients.bias)
    return made


def branches():
    last_level = {"coarse": 10, "middle": 8}
    return {
        "dot": DotProductBranch(C, {"fine": 6}),
        "dot, finer": DotProductBranch(C, {"fine": 6}, scale=3),
        "dot, boxes": DotProductBranch(C, {"fine": 6}, prior=prior()),
        "attention, boxes": AttentionBranch(C, 4, last_level, stride=2, prior=prior()),
        "attention": AttentionBranch(C, 4, {"coarse": 10, "middle": 8, "fine": 6}, stride=2),
        "attention, whole maps": AttentionBranch(C, 4, {"middle": 8, "fine": 6}, stride=1),
    }


def predict(branch, features, memory, states, boxes=None):
    """The second image is padded to the right, by a quarter of its width."""
    bare = PredictionSet(torch.zeros(1), torch.zeros(1))
    if boxes is None:
        boxes = torch.rand(*states.shape[:3], 4)
    made = Predictions(
        {"decoder": PredictionSet(bare.logits, boxes, states=states), "encoder": bare}
    )
    padding_mask = torch.zeros(BATCH, 68, 96, dtype=torch.bool)
    padding_mask[1, :, 72:] = True
    out = branch(features, memory, padding_mask, made)
    assert out["encoder"].masks is None
    return out["decoder"].masks


@pytest.mark.parametrize("name", branches())
def test_all_queries_or_chosen_ones_are_the_same(name):
    features, memory, states = make_inputs()
    branch = branches()[name]
    masks = predict(branch, features, memory, states)
    points = torch.rand(BATCH, 7, 2)
    if branch.prior is not None:  # which is exact between the cells' centres as well
        first = torch.zeros(1, dtype=torch.int64)
        height, width = masks.logits(0, first, first).shape[1:]
        points = ((points * torch.tensor([width, height])).floor() + 0.5) / torch.tensor(
            [width, height]
        )
    layers = list(masks.logits_at(points))
    assert len(layers) == masks.num_layers
    for layer, at in enumerate(layers):
        assert at.shape == (BATCH, QUERIES, 7)
        for image in range(BATCH):
            every = torch.arange(QUERIES)
            whole = masks.logits(image, torch.full_like(every, layer), every)
            torch.testing.assert_close(sample(whole[None], points[image][None])[0], at[image])
            chosen = torch.tensor([3, 0, 3])
            some = masks.logits(image, torch.full_like(chosen, layer), chosen)
            torch.testing.assert_close(some, whole[chosen])


@pytest.mark.parametrize("name", branches())
def test_all_images_or_one_by_one_are_the_same(name):
    """`of_images` of a branch against what it is by default: a loop over `logits`."""
    features, memory, states = make_inputs()
    masks = predict(branches()[name], features, memory, states)
    chosen = torch.tensor([[3, 0, 3], [1, 4, 2]])
    expected = QueryMasks.of_images(masks, chosen)
    assert expected.shape[:2] == chosen.shape
    torch.testing.assert_close(masks.of_images(chosen), expected)


def test_dot_products():
    """Every pixel's and every query's product alone."""
    features, memory, states = make_inputs()
    branch = branches()["dot"]
    masks = predict(branch, features, memory, states)
    assert masks.num_layers == LAYERS
    encoded = memory.tokens[:, : 8 * 12].view(BATCH, 8, 12, C).permute(0, 3, 1, 2)
    encoded = F.interpolate(encoded, (17, 24), mode="bilinear")
    conv, norm = branch.lateral
    fine = F.group_norm(
        F.conv2d(features["fine"], conv.weight, conv.bias), 32, norm.weight, norm.bias
    )
    (conv, norm), _, last, _ = branch.output
    pixels = F.conv2d(fine + encoded, conv.weight, conv.bias, padding=1)
    pixels = F.group_norm(pixels, 32, norm.weight, norm.bias).clamp(min=0)
    pixels = F.conv2d(pixels, last.weight, last.bias)
    for layer, image, query in ((0, 0, 0), (2, 1, 4), (1, 1, 2)):
        x = F.layer_norm(states[layer, image, query], (C,))
        for number in (0, 2, 4):
            linear = branch.embedding[1][number]
            x = linear.weight @ x + linear.bias
            x = x.clamp(min=0) if number < 4 else x
        found = masks.logits(image, torch.tensor([layer]), torch.tensor([query]))[0]
        assert found.shape == (17, 24)
        for row, column in ((0, 0), (16, 23), (5, 9)):
            expected = sum(x[c] * pixels[image, c, row, column] for c in range(C))
            torch.testing.assert_close(found[row, column], expected)


def test_finer_masks():
    """Each pixel's embedding is unfolded into a square of embeddings."""
    features, memory, states = make_inputs()
    branch = branches()["dot, finer"]
    masks = predict(branch, features, memory, states)
    query = branch.embedding(states[1, 0, 2])
    found = masks.logits(0, torch.tensor([1]), torch.tensor([2]))[0]
    assert found.shape == (51, 72)
    flat = []
    branch.output[-1].register_forward_pre_hook(lambda _, x: flat.append(x[0]))
    branch.prepare(features, memory)
    for row, column in ((0, 0), (50, 71), (20, 13)):
        part = (row % 3) * 3 + column % 3
        pixel = flat[0][0, part::9, row // 3, column // 3]
        torch.testing.assert_close(found[row, column], query @ pixel)


def slow_prior(prior, state, box, x, y):
    weight, bias = prior.coefficients.weight, prior.coefficients.bias
    a, b, c, d = (weight @ state + bias).tolist()
    u, v = 2 * (x - box[0]) / box[2], 2 * (y - box[1]) / box[3]
    u, v = max(-2, min(2, u)), max(-2, min(2, v))
    outside = max(abs(u) - 1, 0) + max(abs(v) - 1, 0)
    return a * u + b * u * u + c * v + d * v * v - prior.slope * outside


@pytest.mark.parametrize("name", ["dot, boxes", "attention, boxes"])
def test_boxes_add_to_masks(name):
    """Boxes lie in the image, masks in the padded batch."""
    features, memory, states = make_inputs()
    branch = branches()[name]
    boxes = torch.rand(LAYERS, BATCH, QUERIES, 4) * 0.5 + 0.1
    masks = predict(branch, features, memory, states, boxes)
    prior, branch.prior = branch.prior, None
    plain = predict(branch, features, memory, states, boxes)
    last = torch.tensor([masks.num_layers - 1])
    for image, query in ((0, 3), (1, 1)):
        chosen = (image, last, torch.tensor([query]))
        added = (masks.logits(*chosen) - plain.logits(*chosen))[0]
        height, width = added.shape
        box = boxes[-1, image, query].tolist()
        if image == 1:
            box = [0.75 * box[0], box[1], 0.75 * box[2], box[3]]
        for row, column in ((0, 0), (height // 2, width // 2), (height - 1, 4)):
            at = ((column + 0.5) / width, (row + 0.5) / height)
            expected = slow_prior(prior, states[-1, image, query], box, *at)
            assert added[row, column].item() == pytest.approx(expected, abs=1e-9)


def test_a_mask_starts_in_its_box_and_moves_it_not():
    branch = DotProductBranch(C, {"fine": 6}, prior=BoxPrior(C))
    for parameter in branch.embedding[1].parameters():
        torch.nn.init.zeros_(parameter)  # no pixel says anything
    features, memory, states = make_inputs()
    box = torch.tensor([0.5, 0.5, 0.5, 0.25]).expand(LAYERS, BATCH, QUERIES, 4)
    box = box.clone().requires_grad_()
    masks = predict(branch, features, memory, states, box)
    first = torch.zeros(1, dtype=torch.int64)
    logits = masks.logits(0, first, first)[0]  # 17 rows and 24 columns
    values = logits.tolist()
    assert torch.equal((logits == 0).nonzero().amin(0), torch.tensor([6, 6]))
    assert torch.equal((logits == 0).nonzero().amax(0), torch.tensor([10, 17]))
    assert logits.max() == 0
    assert values[8][5] == pytest.approx(-10 / 12)
    assert values[0][0] == pytest.approx(-10 * 11 / 12 - 10)
    logits.sum().backward()
    assert box.grad is None
    assert branch.prior.coefficients.weight.grad.abs().sum() > 0


def test_boxes_without_extent_have_finite_masks():
    features, memory, states = make_inputs()
    states.requires_grad_()
    masks = predict(
        branches()["dot, boxes"], features, memory, states, torch.zeros(*states.shape[:3], 4)
    )
    every = torch.arange(QUERIES)
    logits = masks.logits(0, torch.zeros_like(every), every)
    assert logits.isfinite().all()
    logits.sum().backward()
    assert states.grad.isfinite().all()


def test_wrong_slope():
    with pytest.raises(ValueError, match=r"model\.masks\.prior\.slope"):
        BoxPrior(C, slope=-1.0)


def test_attention_maps_leave_padding_out_and_sum_to_one():
    features, memory, states = make_inputs()
    branch = branches()["attention"]
    masks = predict(branch, features, memory, states)
    assert masks.num_layers == 1
    seen = []
    branch.head.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    masks.logits(1, torch.tensor([0]), torch.tensor([3]))
    (x,) = seen
    assert x.shape == (1, C + 4, 2, 3)
    cells = memory.tokens[1, -6:]
    torch.testing.assert_close(x[0, :C].flatten(1).T, cells)
    query = branch.query(states[-1, 1, 3])
    keys = cells @ branch.key.weight[:, :, 0, 0].T + branch.key.bias
    for head in range(4):
        part = slice(head * 8, head * 8 + 8)
        scores = [(query[part] @ key[part] / math.sqrt(8)).exp().item() for key in keys[:5]]
        expected = torch.tensor([s / sum(scores) for s in scores] + [0.0])
        torch.testing.assert_close(x[0, C + head].flatten(), expected)


def test_the_attention_head_starts_as_published():
    """Convolutions as DETR's, the projections of the attention by Xavier; biases are zero."""
    branch = AttentionBranch(64, 8, {"res5": 256, "res4": 128, "res3": 64})
    blocks = (*branch.head, *branch.blocks)
    for conv in (*(block[0][0] for block in blocks), *branch.adapters, branch.output):
        bound = math.sqrt(3 / conv.weight[0].numel())
        assert 0.95 * bound < conv.weight.abs().max() <= bound
        assert not conv.bias.any()
    for projection in (branch.query, branch.key):
        bound = math.sqrt(6 / 128)
        assert 0.98 * bound < projection.weight.abs().max() <= bound
        assert not projection.bias.any()


@pytest.mark.parametrize(
    ("name", "size"), [("attention", (9, 12)), ("attention, whole maps", (17, 24))]
)
def test_attention_masks_have_the_finest_maps_size(name, size):
    features, memory, states = make_inputs()
    masks = predict(branches()[name], features, memory, states)
    assert masks.logits(0, torch.tensor([0]), torch.tensor([1])).shape == (1, *size)


@pytest.mark.parametrize("name", branches())
def test_no_query_still_reaches_every_parameter(name):
    features, memory, states = make_inputs()
    branch = branches()[name]
    masks = predict(branch, features, memory, states)
    nobody = torch.zeros(0, dtype=torch.int64)
    out = masks.logits(0, nobody, nobody)
    assert out.shape[0] == 0
    out.sum().backward()
    for parameter, tensor in branch.named_parameters():
        assert tensor.grad is not None, parameter


def test_one_map_for_dot_products():
    with pytest.raises(ValueError, match=r"model\.masks\.in_channels"):
        DotProductBranch(C, {"fine": 6, "middle": 8})


@dataclass
class Ramps(QueryMasks):
    """Positive left of `border`, a share of the padded width, one for every query."""

    borders: tuple[float, ...]
    num_layers: int = 2

    def logits(self, image, layer, query):
        assert (layer == 1).all()  # the last one
        x = (torch.arange(40) + 0.5) / 40
        return (torch.tensor(self.borders)[query, None, None] - x).expand(-1, 20, -1)

    def logits_at(self, points):
        raise NotImplementedError


def paste(queries, output_size, image_size=(60, 100)):
    masks, queries = Ramps((0.5, 0.25, 0.0, 1.0)), torch.tensor(queries, dtype=torch.int64)
    return paste_masks(masks, 0, queries, (80, 160), image_size, output_size)


def test_masks_are_pasted_where_they_lie():
    """The padded batch is 160 wide: its middle is pixel 80 of the image, 160 of the output."""
    out = paste([0, 3, 2, 1], (120, 200))
    assert out.dtype == torch.bool
    assert out.shape == (4, 120, 200)
    for mask, border in zip(out, (160, 200, 0, 80), strict=True):
        assert mask[:, : max(border - 2, 0)].all()
        assert not mask[:, border + 2 :].any()
    same = paste([1], (60, 100))[0]
    assert same[:, :39].all()
    assert not same[:, 41:].any()


def test_pasting_in_pieces(monkeypatch):
    whole = paste([0, 3, 2, 1, 1], (30, 50))
    monkeypatch.setattr("ms_detr.modeling.postprocess.MAX_PASTED", 2 * 80 * 160)
    assert torch.equal(paste([0, 3, 2, 1, 1], (30, 50)), whole)
    monkeypatch.setattr("ms_detr.modeling.postprocess.MAX_PASTED", 1)
    assert torch.equal(paste([0, 3, 2, 1, 1], (30, 50)), whole)
    assert paste([], (30, 50)).shape == (0, 30, 50)


def test_pasting_goes_on_where_the_gpu_is_full(monkeypatch):
    expected = paste([0, 1], (30, 50))
    real, calls = torch.empty, []

    def full_at_first(*args, **kwargs):
        calls.append(kwargs["device"])
        if len(calls) == 1:
            raise torch.cuda.OutOfMemoryError("no memory is left")
        return real(*args, **kwargs)

    monkeypatch.setattr(torch, "empty", full_at_first)
    assert torch.equal(paste([0, 1], (30, 50)), expected)
    assert calls[1] == torch.device("cpu")
