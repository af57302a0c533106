import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ms_detr.modeling import BoxHead, ClassHead, TwoStageInitializer
from ms_detr.modeling.query_initializer import make_proposals
from ms_detr.structures import TokenGrid

from ..layers.reference import parameters
from ..layers.support import make_grid, make_memory, padded, randomise
from . import reference
from .test_grid import paddings

DIM, CLASSES = 8, 3
PADDINGS = [
    [padded(4, 6, 4, 6), padded(2, 3, 2, 3), padded(1, 2, 1, 2)],
    [padded(4, 6, 3, 4), padded(2, 3, 2, 2), padded(1, 2, 1, 1)],
]


def make(num_queries=5, mixed_selection=False, anchor_size=0.05, extra_queries=()):
    heads = ClassHead(DIM, CLASSES), BoxHead(DIM)
    initializer = TwoStageInitializer(
        num_queries, DIM, *heads, mixed_selection, anchor_size, extra_queries
    )
    return randomise(initializer)


def run(initializer, memory, supervised=True):
    """Queries, and the predictions for all tokens where supervised."""
    queries, predictions = initializer(memory, supervised)
    assert set(map(str, predictions)) == ({"encoder"} if supervised else set())
    return queries, predictions.get("encoder")


@settings(max_examples=40)
@given(paddings=paddings(), anchor_size=st.sampled_from([0.05, 0.1, 0.4]))
def test_proposals_equal_the_loop(paddings, anchor_size):
    proposals = make_proposals(make_grid(paddings), anchor_size)
    for b, levels in enumerate(paddings):
        logits, valid = reference.proposals(levels, anchor_size)
        assert (proposals.valid[b].numpy() == valid).all()
        np.testing.assert_allclose(proposals.logits[b], logits, atol=1e-9)


def full_grid(sizes, valid=None):
    """A float32 grid as the neck makes it, of one image, `valid` (height, width) of each level."""
    paddings = [padded(*size, *part) for size, part in zip(sizes, valid or sizes, strict=True)]
    grid = make_grid([paddings])
    return TokenGrid(grid.level_shapes, grid.padding_mask, grid.valid_ratios.float())


@pytest.mark.parametrize(
    ("sizes", "tokens", "invalid"),
    [
        ([(100, 167), (50, 84), (25, 42), (13, 21)], 22223, 990),
        ([(100, 134), (50, 67), (25, 34), (13, 17)], 17821, 694),
    ],
    ids=["800x1333", "800x1066"],
)
def test_published_counts_of_invalid_anchors(sizes, tokens, invalid):
    """Counted in the published code at two image sizes without padding."""
    valid = make_proposals(full_grid(sizes), 0.05).valid
    assert valid.numel() == tokens
    assert (~valid).sum().item() == invalid


def test_validity_does_not_depend_on_the_amount_of_padding():
    """With 50 valid rows the first row's centre is 0.01 exactly, which is not above 0.01."""
    for height in range(50, 101):
        grid = full_grid([(height, 9)], valid=[(50, 9)])
        valid = make_proposals(grid, 0.05).valid.view(height, 9)
        assert not valid[0].any(), f"first of 50 rows padded to {height}"
        assert not valid[49].any(), f"last of 50 rows padded to {height}"
        assert valid[1:49].all()


@pytest.mark.parametrize("mixed_selection", [False, True])
@pytest.mark.parametrize("supervised", [False, True])
def test_equals_the_loop(mixed_selection, supervised):
    """Selection by channel 0; the position keeps the statistics of the whole layer norm."""
    initializer = make(mixed_selection=mixed_selection)
    memory = make_memory(PADDINGS, DIM, seed=1)
    queries, predictions = run(initializer, memory, supervised)
    params = parameters(initializer)
    for b, levels in enumerate(PADDINGS):
        every, start, chosen = reference.queries(params, memory.tokens[b].numpy(), levels, 5)
        ranking_of_others = [np.argsort(-every[0][:, c])[:5].tolist() for c in (1, 2)]
        assert chosen not in ranking_of_others
        found = (queries.content[b], queries.position[b], queries.reference[b])
        for out, expected in zip(found, start, strict=True):
            np.testing.assert_allclose(out.detach(), expected, atol=1e-9)
        if supervised:
            found = predictions.logits[0, b], predictions.boxes[0, b], predictions.anchors[b]
            for out, expected in zip(found, every, strict=True):
                np.testing.assert_allclose(out.detach(), expected, atol=1e-9)
    if supervised:
        assert not predictions.layered
        assert predictions.logits.shape[0] == 1


def test_invalid_tokens_stay_in_the_pool_as_whole_boxes():
    initializer = make()
    _, predictions = run(initializer, make_memory(PADDINGS, DIM))
    valid = make_proposals(make_grid(PADDINGS), 0.05).valid
    assert not valid.all()
    assert (predictions.anchors[~valid] == 1).all()
    assert (predictions.boxes[0][~valid] == 1).all()
    logits = predictions.logits[0][~valid]
    torch.testing.assert_close(logits, logits[:1].expand_as(logits))
    assert (predictions.anchors[valid] < 0.99).all()


def test_invalid_boxes_have_finite_gradients():
    initializer = make(num_queries=100)
    queries, predictions = run(initializer, make_memory(PADDINGS, DIM))
    loss = predictions.boxes.square().sum() + queries.position.sum() + queries.content.sum()
    loss.backward()
    for name, parameter in initializer.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name


def test_gradients_stop_at_the_selected_boxes():
    initializer = make()
    memory = make_memory(PADDINGS, DIM)
    memory.tokens.requires_grad_()
    queries, _ = initializer(memory, supervised=True)
    assert not queries.reference.requires_grad
    (queries.content.square().sum() + queries.position.square().sum()).backward()
    gradients = {name: parameter.grad for name, parameter in initializer.named_parameters()}
    reached = {name.split(".")[0] for name, grad in gradients.items() if grad is not None}
    assert reached == {"query_projection", "query_norm"}
    assert memory.tokens.grad is None


def test_mixed_selection_learns_the_content():
    initializer = make(mixed_selection=True)
    queries, _ = initializer(make_memory(PADDINGS, DIM), supervised=True)
    assert torch.equal(queries.content[0], initializer.content)
    assert torch.equal(queries.content[0], queries.content[1])
    queries.content.sum().backward()
    assert (initializer.content.grad == 2).all()
    assert make().content is None


@pytest.mark.parametrize("mixed_selection", [False, True])
@pytest.mark.parametrize("supervised", [False, True])
def test_fewer_tokens_than_queries(mixed_selection, supervised):
    initializer = make(num_queries=50, mixed_selection=mixed_selection)
    memory = make_memory(PADDINGS, DIM)
    tokens = memory.tokens.shape[1]
    queries, _ = initializer(memory, supervised)
    for tensor in (queries.content, queries.position):
        assert tensor.shape == (2, tokens, DIM)
    assert queries.reference.shape == (2, tokens, 4)


def test_start():
    initializer = TwoStageInitializer(300, 64, ClassHead(64, 5), BoxHead(64), mixed_selection=True)
    assert initializer.content.std().item() == pytest.approx(1, rel=0.05)
    for linear in (initializer.token_projection, initializer.query_projection):
        bound = (6 / sum(linear.weight.shape)) ** 0.5
        assert 0.98 * bound < linear.weight.abs().max() <= bound
