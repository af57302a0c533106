from itertools import permutations

import numpy as np
import pytest
import torch

from ms_detr.structures import PredictionSet
from ms_detr.supervision import AnchorHungarianAssigner, HungarianAssigner

from . import reference
from .support import make_images, make_predictions, make_targets, pairs


def scene(seed=0, counts=(3, 0, 5), queries=7, **options):
    rng = np.random.default_rng(seed)
    images = make_images(rng, counts)
    return images, make_predictions(rng, images, queries, **options)


def assign(assigner, predictions, targets):
    costs = assigner.host_costs(predictions, targets)
    return assigner.assign(predictions, targets, costs.numpy())


def expected_cost(images, predictions, layer, b, boxes=None, agnostic=False, weights=(2, 5, 2)):
    labels = images[b]["labels"].numpy()
    boxes = predictions.boxes[layer, b] if boxes is None else boxes
    return reference.matching_cost(
        predictions.logits[layer, b].numpy(),
        boxes.numpy(),
        np.zeros_like(labels) if agnostic else labels,
        images[b]["boxes"].numpy(),
        weights,
    )


@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize("weights", [(2.0, 5.0, 2.0), (0.0, 1.0, 3.0), (4.0, 0.0, 0.0)])
def test_costs_and_assignment_equal_the_loop(agnostic, weights):
    assigner = HungarianAssigner(*weights, class_agnostic=agnostic)
    for seed in range(5):
        images, predictions = scene(seed)
        targets = make_targets(images)
        costs = assigner.host_costs(predictions, targets)
        assert costs.shape == (2, 3, 5, 7)
        assignment = assigner.assign(predictions, targets, costs.numpy())
        assert assignment.query.shape == assignment.valid.shape == (2, 3, 5, 1)
        assert assignment.score is None
        for layer in range(2):
            for b, image in enumerate(images):
                count = len(image["labels"])
                cost = expected_cost(
                    images, predictions, layer, b, agnostic=agnostic, weights=weights
                )
                np.testing.assert_allclose(costs[layer, b, :count], cost, atol=1e-9)
                assert pairs(assignment, layer, b) == reference.hungarian(cost)
        labels = torch.zeros_like(targets.labels) if agnostic else targets.labels
        assert torch.equal(assignment.labels, labels)


def test_the_published_weights_are_the_default():
    images, predictions = scene()
    costs = HungarianAssigner().host_costs(predictions, make_targets(images))
    np.testing.assert_allclose(costs[1, 2], expected_cost(images, predictions, 1, 2), atol=1e-9)


def test_costs_of_sure_predictions_equal_the_loop():
    """Where a probability is 0 or 1 the published 1e-8 keeps the logarithm finite."""
    images, predictions = scene()
    sure = PredictionSet(predictions.logits.sign() * 50, predictions.boxes)
    costs = HungarianAssigner().host_costs(sure, make_targets(images))
    np.testing.assert_allclose(costs[0, 2], expected_cost(images, sure, 0, 2), atol=1e-6)


def test_the_total_cost_is_the_least():
    images, predictions = scene(counts=(4,), queries=5)
    cost = expected_cost(images, predictions, 0, 0)
    found = pairs(assign(HungarianAssigner(), predictions, make_targets(images)), 0, 0)
    best = min(
        (sum(cost[g, q] for g, q in enumerate(choice)), choice)
        for choice in permutations(range(5), 4)
    )
    assert found == {(q, g) for g, q in enumerate(best[1])}


def test_more_objects_than_queries():
    images, predictions = scene(counts=(6, 2), queries=4)
    assignment = assign(HungarianAssigner(), predictions, make_targets(images))
    for layer in range(2):
        found = pairs(assignment, layer, 0)
        assert found == reference.hungarian(expected_cost(images, predictions, layer, 0))
        assert len(found) == 4
        assert len(pairs(assignment, layer, 1)) == 2


def test_no_objects_at_all():
    images, predictions = scene(counts=(0, 0))
    assignment = assign(HungarianAssigner(), predictions, make_targets(images))
    assert assignment.query.shape == assignment.valid.shape == (2, 2, 0, 1)


@pytest.mark.parametrize("class_cost", [0.0, 2.0])
def test_anchors_take_the_place_of_boxes(class_cost):
    assigner = AnchorHungarianAssigner(class_cost, 5.0, 2.0, class_agnostic=True)
    for seed in range(5):
        images, predictions = scene(seed)
        targets = make_targets(images)
        assignment = assign(assigner, predictions, targets)
        for layer in range(2):
            for b in range(3):
                anchors = predictions.anchors[b]
                weights = (class_cost, 5.0, 2.0)
                cost = expected_cost(images, predictions, layer, b, anchors, True, weights)
                assert pairs(assignment, layer, b) == reference.hungarian(cost)
        assert (assignment.labels == 0).all()


def test_without_class_cost_anchors_alone_decide():
    images, predictions = scene()
    targets = make_targets(images)
    assigner = AnchorHungarianAssigner(0.0, 5.0, 2.0, class_agnostic=True)
    logits, boxes = predictions.logits.flip(2), predictions.boxes.flip(2)
    others = PredictionSet(logits, boxes, predictions.anchors)
    first, second = (assign(assigner, made, targets) for made in (predictions, others))
    assert torch.equal(first.query, second.query)


def test_an_object_as_large_as_the_image_takes_an_invalid_anchor():
    """As in the published code, whose largest valid anchor is 0.4 wide."""
    anchors = torch.tensor([[[0.5, 0.5, 0.4, 0.4], [1.0, 1.0, 1.0, 1.0]]], dtype=torch.float64)
    predictions = PredictionSet(torch.zeros(1, 1, 2, 3).double(), anchors[None], anchors)
    assigner = AnchorHungarianAssigner(0.0, 5.0, 2.0, class_agnostic=True)
    for side, query in ((0.9, 0), (1.0, 1)):
        box = torch.tensor([[0.5, 0.5, side, side]], dtype=torch.float64)
        targets = make_targets([{"labels": torch.tensor([2]), "boxes": box}])
        assert pairs(assign(assigner, predictions, targets), 0, 0) == {(query, 0)}


def test_a_source_without_anchors():
    images, predictions = scene()
    bare = PredictionSet(predictions.logits, predictions.boxes)
    with pytest.raises(ValueError, match="no anchors.*HungarianAssigner"):
        AnchorHungarianAssigner().host_costs(bare, make_targets(images))
