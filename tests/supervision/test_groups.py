"""Assigners of query groups: objects matched several times, in blocks, or known."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ms_detr.structures import Assignment, Predictions
from ms_detr.supervision import (
    Criterion,
    FocalLoss,
    GIoULoss,
    HungarianAssigner,
    KnownAssigner,
    L1Loss,
    Losses,
    RepeatedHungarianAssigner,
    SupervisionTerm,
    Terms,
)
from ms_detr.supervision.criterion import to_host

from . import reference
from .support import make_images, make_predictions, make_targets, pairs

CLASSES = 3


def scene(counts, queries, seed=0):
    rng = np.random.default_rng(seed)
    images = make_images(rng, counts, CLASSES)
    return images, make_predictions(rng, images, queries, CLASSES)


@torch.no_grad()
def assign(assigner, predictions, targets):
    cost = assigner.host_costs(predictions, targets)
    return assigner.assign(predictions, targets, to_host({"": cost})[""])


def cost_of(predictions, images, layer, b, queries=slice(None)):
    return reference.matching_cost(
        predictions.logits[layer, b, queries].numpy(),
        predictions.boxes[layer, b, queries].numpy(),
        images[b]["labels"].numpy(),
        images[b]["boxes"].numpy(),
    )


def repeated(cost, k):
    """Pairs of one image by ordinary matching of the list of objects, written out k times."""
    rows = [row for _ in range(k) for row in cost]
    if not rows:
        return set()
    return {(q, g % len(cost)) for q, g in reference.hungarian(np.stack(rows))}


@settings(max_examples=30)
@given(
    counts=st.lists(st.integers(0, 4), min_size=1, max_size=3),
    queries=st.integers(0, 15),
    k=st.integers(1, 4),
    seed=st.integers(0, 100),
)
def test_repeated_objects_equal_the_loop(counts, queries, k, seed):
    images, predictions = scene(counts, queries, seed)
    found = assign(RepeatedHungarianAssigner(k), predictions, make_targets(images))
    assert found.query.shape == (2, len(counts), max(counts), k if queries else 0)
    assert found.copies == (k if queries else 1)
    for layer in range(2):
        for b, count in enumerate(counts):
            expected = repeated(cost_of(predictions, images, layer, b), k) if queries else set()
            assert pairs(found, layer, b) == expected
            taken = [query for query, _ in expected]
            assert len(set(taken)) == len(taken) == min(k * count, queries)


@settings(max_examples=30)
@given(
    counts=st.lists(st.integers(0, 4), min_size=1, max_size=3),
    blocks=st.lists(st.integers(0, 6), min_size=1, max_size=4),
    seed=st.integers(0, 100),
)
def test_every_block_is_matched_by_itself(counts, blocks, seed):
    images, predictions = scene(counts, sum(blocks), seed)
    predictions = dataclasses.replace(predictions, blocks=tuple(blocks))
    found = assign(HungarianAssigner(), predictions, make_targets(images))
    assert found.copies == max(1, sum(size > 0 for size in blocks))
    for layer in range(2):
        for b in range(len(counts)):
            expected, start = set(), 0
            for size in blocks:
                span = slice(start, start + size)
                if size:
                    cost = cost_of(predictions, images, layer, b, span)
                    expected |= {(start + q, g) for q, g in reference.hungarian(cost)}
                start += size
            assert pairs(found, layer, b) == expected


def test_one_of_each_is_ordinary_matching():
    images, predictions = scene((3, 0, 2), 9)
    targets = make_targets(images)
    expected = assign(HungarianAssigner(), predictions, targets)
    grouped = dataclasses.replace(predictions, blocks=(9,))
    for found in (
        assign(RepeatedHungarianAssigner(k=1), predictions, targets),
        assign(HungarianAssigner(), grouped, targets),
    ):
        assert torch.equal(found.query, expected.query)
        assert torch.equal(found.valid, expected.valid)
        assert found.copies == expected.copies == 1


def losses():
    return Losses(**{"class": FocalLoss(2.0)}, bbox=L1Loss(5.0), giou=GIoULoss(2.0))


def by_term(assigner, predictions, targets, weight=1.0):
    term = SupervisionTerm("x", assigner, losses(), weight)
    return Criterion(Terms(x=term))(Predictions({"x": predictions}), targets)


@pytest.mark.parametrize("k", [1, 3])
def test_hybrid_losses_equal_the_loop(k):
    """Hybrid DETR: the ordinary losses of the repeated objects, divided by their number."""
    images, predictions = scene((3, 0, 2), 20)
    found = by_term(RepeatedHungarianAssigner(k), predictions, make_targets(images))

    def matching(b, logits, boxes, image):
        cost = reference.matching_cost(
            logits, boxes, image["labels"].numpy(), image["boxes"].numpy()
        )
        return repeated(cost, k), np.zeros((len(cost), 20)), image["labels"].numpy()

    for layer in range(2):
        weights = {"class": 2.0, "bbox": 5.0, "giou": 2.0}
        inputs = predictions.logits[layer], predictions.boxes[layer], images, matching
        for name, loss in reference.term_losses(*inputs, k * 5, weights).items():
            assert found[f"x/loss_{name}/{layer}"].item() == pytest.approx(loss.item(), rel=1e-9)


def test_the_loss_of_group_detr_is_the_average_over_its_groups():
    """The primary queries' share is 1 / K, the others' (K - 1) / K: every group counts 1 / K."""
    images, predictions = scene((3, 0, 2), 24)
    targets = make_targets(images)

    def part(start, stop, blocks=None, peers=1):
        return dataclasses.replace(
            predictions,
            logits=predictions.logits[:, :, start:stop],
            boxes=predictions.boxes[:, :, start:stop],
            blocks=blocks,
            peers=peers,
        )

    o2o = by_term(HungarianAssigner(), part(0, 6, peers=4), targets)
    others = by_term(HungarianAssigner(), part(6, 24, (6, 6, 6), peers=4), targets)
    each = [by_term(HungarianAssigner(), part(6 * i, 6 * i + 6), targets) for i in range(4)]
    for name in o2o:
        average = sum(group[name] for group in each) / 4
        torch.testing.assert_close(o2o[name] + others[name], average)


def test_what_is_known_holds_in_every_layer():
    images, predictions = scene((2, 1), 8)
    known = Assignment(
        torch.tensor([[[[0, 4], [1, 5]], [[2, 6], [0, 0]]]]),
        torch.tensor([[[[True, True], [True, True]], [[True, True], [False, False]]]]),
        torch.tensor([[1, 2], [0, 0]]),
        copies=2,
    )
    predictions = dataclasses.replace(predictions, assignment=known)
    targets = make_targets(images)
    assert KnownAssigner().host_costs(predictions, targets) is None
    found = KnownAssigner().assign(predictions, targets, None)
    for layer in range(2):
        assert pairs(found, layer, 0) == {(0, 0), (4, 0), (1, 1), (5, 1)}
        assert pairs(found, layer, 1) == {(2, 0), (6, 0)}
    assert torch.equal(found.labels, known.labels)
    assert found.copies == 2


def test_a_source_that_an_assigner_does_not_fit():
    images, predictions = scene((2, 1), 8)
    targets = make_targets(images)
    with pytest.raises(ValueError, match="isn't known.*give its term a HungarianAssigner"):
        KnownAssigner().assign(predictions, targets, None)
    with pytest.raises(ValueError, match="at least 1; got 0"):
        RepeatedHungarianAssigner(k=0)


@pytest.mark.parametrize("assigner", [RepeatedHungarianAssigner(6), HungarianAssigner()])
def test_a_group_without_queries_costs_nothing(assigner):
    images, predictions = scene((2, 1), 0)
    predictions = dataclasses.replace(predictions, blocks=(0, 0))
    predictions.logits.requires_grad_()
    predictions.boxes.requires_grad_()
    found = by_term(assigner, predictions, make_targets(images))
    assert all(loss == 0 and loss.requires_grad for loss in found.values())
