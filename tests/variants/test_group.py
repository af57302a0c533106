"""Group DETR in two stages: every group selects its queries by itself."""

import dataclasses

import numpy as np
import pytest
import torch
from detectron2.config import instantiate

from ms_detr.config import load
from ms_detr.modeling import BoxHead, ClassHead, TwoStageInitializer
from ms_detr.recipes import group_two_stage
from ms_detr.structures import Predictions, Source
from ms_detr.supervision import Criterion, HungarianAssigner, Terms
from ms_detr.variants import DINOInitializer
from ms_detr.variants.denoising import Indicated
from ms_detr.variants.group import OwnSelections

from ..layers.reference import parameters
from ..layers.support import make_memory, randomise
from ..modeling import reference
from ..modeling.support import BASELINE, ROOT, trained_parameters
from ..modeling.test_decoder import PADDINGS
from ..supervision.support import make_images, make_predictions, make_targets
from .test_dino import select

DIM, CLASSES, QUERIES, GROUPS = 8, 3, 4, 3
CONFIG = "group_detr/group_dino_r50_4scale_12ep.py"
PROPOSER = ("token_projection", "token_norm", "class_head", "box_head")


def make(kind, queries=QUERIES, extra=(GROUPS - 1) * QUERIES, **options):
    heads = ClassHead(DIM, CLASSES), BoxHead(DIM)
    return randomise(OwnSelections(kind(queries, DIM, *heads, extra_queries=(extra,), **options)))


def of_group(initializer, group):
    """Parameters of the search as the slow reference knows them, with a group's own proposer."""
    params = parameters(initializer.initializer)
    if group:
        own = parameters(initializer.proposers[group - 1])
        assert {name.split(".")[0] for name in own} == set(PROPOSER)
        params |= own
    return params


def test_dinos_selections_equal_the_loop():
    initializer, memory = make(DINOInitializer), make_memory(PADDINGS, DIM, seed=1)
    queries, predictions = initializer(memory, supervised=True)
    assert set(predictions) == initializer.sources
    assert set(map(str, predictions)) == {"encoder", "group.encoder"}
    further = predictions["group.encoder"]
    assert further.blocks == (QUERIES,) * (GROUPS - 1) and not further.layered
    chosen = set()
    for b, levels in enumerate(PADDINGS):
        for group in range(GROUPS):
            logits, boxes, _ = select(
                of_group(initializer, group), memory.tokens[b].numpy(), levels, QUERIES
            )
            rows = slice(group * QUERIES, (group + 1) * QUERIES)
            np.testing.assert_allclose(queries.reference[b, rows], boxes, atol=1e-9)
            made = further if group else predictions["encoder"]
            rows = slice(max(group - 1, 0) * QUERIES, max(group, 1) * QUERIES)
            np.testing.assert_allclose(made.logits[0, b, rows].detach(), logits, atol=1e-9)
            np.testing.assert_allclose(made.boxes[0, b, rows].detach(), boxes, atol=1e-9)
            chosen.add(boxes.tobytes())
    assert len(chosen) == 2 * GROUPS, "two groups chose the same"
    content = initializer.initializer.content
    assert torch.equal(queries.content[0], content) and len(content) == GROUPS * QUERIES
    assert not queries.reference.requires_grad


@pytest.mark.parametrize("mixed", [False, True])
def test_two_stage_selections_equal_the_loop(mixed):
    """Every group predicts for all tokens; learned contents are its own rows."""
    initializer = make(TwoStageInitializer, mixed_selection=mixed)
    memory = make_memory(PADDINGS, DIM, seed=1)
    queries, predictions = initializer(memory, supervised=True)
    tokens = memory.tokens.shape[1]
    further = predictions["group.encoder"]
    assert further.blocks == (tokens,) * (GROUPS - 1)
    for b, levels in enumerate(PADDINGS):
        for group in range(GROUPS):
            params = of_group(initializer, group)
            rows = slice(group * QUERIES, (group + 1) * QUERIES)
            every, (content, position, boxes), _ = reference.queries(
                params, memory.tokens[b].numpy(), levels, QUERIES
            )
            if mixed:
                content = params["content"][rows]
            found = (queries.content[b], queries.position[b], queries.reference[b])
            for out, expected in zip(found, (content, position, boxes), strict=True):
                np.testing.assert_allclose(out[rows].detach(), expected, atol=1e-9)
            made = further if group else predictions["encoder"]
            rows = slice(max(group - 1, 0) * tokens, max(group, 1) * tokens)
            np.testing.assert_allclose(made.logits[0, b, rows].detach(), every[0], atol=1e-9)
            np.testing.assert_allclose(made.boxes[0, b, rows].detach(), every[1], atol=1e-9)


@pytest.mark.parametrize("kind", [TwoStageInitializer, DINOInitializer])
def test_at_inference_it_is_the_initializer_alone(kind):
    initializer, memory = make(kind), make_memory(PADDINGS, DIM, seed=1)
    del initializer.proposers
    queries, predictions = initializer(memory, supervised=False)
    assert not predictions
    plain = kind(QUERIES, DIM, ClassHead(DIM, CLASSES), BoxHead(DIM)).double()
    state = initializer.initializer.state_dict()
    if "content" in state:
        state["content"] = state["content"][:QUERIES]
    plain.load_state_dict(state)
    expected, _ = plain(memory, supervised=False)
    assert torch.equal(queries.reference, expected.reference)
    assert torch.equal(queries.content, expected.content)


def test_every_proposer_starts_from_another_projection():
    torch.manual_seed(0)
    heads = ClassHead(64, 5), BoxHead(64)
    initializer = OwnSelections(DINOInitializer(3, 64, *heads, extra_queries=(6,)))
    first, second = initializer.proposers
    every = [x.token_projection.weight for x in (initializer.initializer, first, second)]
    assert not torch.equal(every[0], every[1]) and not torch.equal(every[1], every[2])
    for weight in every:
        bound = (6 / 128) ** 0.5
        assert 0.98 * bound < weight.abs().max() <= bound
    prior = initializer.initializer.class_head.bias
    assert all(torch.equal(x.class_head.bias, prior) for x in (first, second))


@pytest.mark.parametrize("tokens_too_few", [False, True])
def test_fewer_tokens_than_queries(tokens_too_few):
    memory = make_memory(PADDINGS, DIM)
    tokens = memory.tokens.shape[1]
    count = tokens + tokens_too_few
    initializer = make(DINOInitializer, queries=count, extra=count)
    queries, predictions = initializer(memory, supervised=True)
    assert queries.count == (tokens if tokens_too_few else 2 * tokens)
    assert predictions["group.encoder"].logits.shape == (1, 2, tokens, CLASSES)


def test_groups_of_another_size():
    with pytest.raises(ValueError, match="4 queries each.* but 6 extra queries"):
        make(DINOInitializer, extra=6)


def test_without_groups_it_is_the_other_initializer():
    initializer, memory = make(DINOInitializer, extra=0), make_memory(PADDINGS, DIM, seed=1)
    queries, predictions = initializer(memory, supervised=True)
    expected, made = initializer.initializer(memory, supervised=True)
    assert torch.equal(queries.reference, expected.reference)
    assert set(predictions) == set(made) == initializer.sources == {Source("encoder")}
    assert queries.count == QUERIES


def test_it_wraps_what_selects_proposals():
    with pytest.raises(ValueError, match="which Indicated does not: wrap an initialiser that does"):
        OwnSelections(Indicated(DINOInitializer(4, DIM, ClassHead(DIM, 3), BoxHead(DIM), 0.2)))


def test_the_proposals_loss_is_the_average_over_the_groups():
    """Of the two terms that the config makes for encoder and groups, and the shares of both."""
    model = group_two_stage(load(ROOT / BASELINE).model, num_groups=4)
    terms = {
        name: instantiate(model.criterion.terms[name]) for name in ("encoder", "group_encoder")
    }
    assert terms["group_encoder"].assigner.class_agnostic
    images = make_images(np.random.default_rng(0), (3, 0, 2))
    targets = make_targets(images)
    every = make_predictions(np.random.default_rng(1), images, 24, layers=1, layered=False)

    def part(start, stop, blocks=None):
        logits, boxes = every.logits[:, :, start:stop], every.boxes[:, :, start:stop]
        return dataclasses.replace(every, logits=logits, boxes=boxes, blocks=blocks)

    given = {"encoder": part(0, 6), "group.encoder": part(6, 24, (6, 6, 6))}
    given = {name: dataclasses.replace(made, peers=4) for name, made in given.items()}
    found = Criterion(Terms(**terms))(Predictions(given), targets)
    alone = instantiate(load(ROOT / BASELINE).model.criterion.terms.encoder)
    assert isinstance(alone.assigner, HungarianAssigner)
    each = [
        Criterion(Terms(x=alone))(Predictions({"encoder": part(6 * i, 6 * i + 6)}), targets)
        for i in range(4)
    ]
    for name in ("loss_class", "loss_bbox", "loss_giou"):
        average = sum(group[f"x/{name}"] for group in each) / 4
        torch.testing.assert_close(
            found[f"encoder/{name}"] + found[f"group_encoder/{name}"], average
        )


def test_parameter_count():
    """DINO, and ten times 900 contents, a projection, a norm and two heads."""
    linear = 257 * 256
    proposer = linear + 2 * 256 + 91 * 257 + 2 * linear + 4 * 257
    assert trained_parameters(CONFIG) == 46_670_782 + 10 * (900 * 256 + proposer)
