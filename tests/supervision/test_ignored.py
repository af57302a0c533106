"""Queries that stand for nothing: as if they weren't there, whatever matches and learns them."""

import dataclasses

import numpy as np
import pytest
import torch

from ms_detr.structures import Predictions
from ms_detr.supervision import (
    Criterion,
    FocalLoss,
    GIoULoss,
    HungarianAssigner,
    L1Loss,
    Losses,
    PaperTopK,
    ReleasedTopK,
    RepeatedHungarianAssigner,
    SupervisionTerm,
    Terms,
)
from ms_detr.supervision.assigners import shun
from ms_detr.variants.detr import ProbabilityCost, SoftmaxLoss, softmax_with_nothing
from ms_detr.variants.iou_aware import IABCELoss, VariFocalLoss

from .support import make_images, make_predictions, make_targets

LAYERS, QUERIES, CLASSES = 2, 9, 4
GONE = [2, 3, 7]  # of both images, so that the others are a tensor, too
KEPT = [q for q in range(QUERIES) if q not in GONE]
SOFT = dict(class_distance=ProbabilityCost())
KINDS = {
    "focal": (HungarianAssigner, {}, FocalLoss),
    "softmax": (HungarianAssigner, SOFT, SoftmaxLoss),
    "varifocal": (HungarianAssigner, {}, VariFocalLoss),
    "ia_bce": (HungarianAssigner, {}, IABCELoss),
    "repeated": (RepeatedHungarianAssigner, {"k": 2}, FocalLoss),
    "paper": (PaperTopK, {"threshold": 0.2, "alpha": 0.5}, FocalLoss),
    "released": (ReleasedTopK, {"threshold": 0.2, "alpha": 0.5, "quota": 1.0}, FocalLoss),
    "softmax, one-to-many": (ReleasedTopK, {"threshold": 0.1, "quota": 1.0}, SoftmaxLoss),
}


def scene(kind, counts=(3, 2)):
    rng = np.random.default_rng(0)
    images = make_images(rng, counts, CLASSES)
    made = make_predictions(rng, images, QUERIES, CLASSES, LAYERS)
    logits = made.logits.detach().clone()
    # What is ignored would be the best choice of all.
    for b, image in enumerate(images):
        if len(image["boxes"]):
            made.boxes.data[:, b, GONE] = image["boxes"][0]
            logits[:, b, GONE] = -5.0
            logits[:, b, GONE, image["labels"][0]] = 5.0
    soft = softmax_with_nothing if "softmax" in kind else torch.sigmoid
    made = dataclasses.replace(
        made, logits=logits.requires_grad_(), boxes=made.boxes.detach(), probability=soft
    )
    return make_targets(images), made


def losses_of(kind, targets, predictions):
    assigner, options, loss = KINDS[kind]
    losses = Losses(**{"class": loss(2.0), "bbox": L1Loss(5.0), "giou": GIoULoss(2.0)})
    term = SupervisionTerm("decoder", assigner(**options), losses)
    return Criterion(Terms(x=term))(Predictions({"decoder": predictions}), targets)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("counts", [(3, 2), (1, 0), (0, 0)], ids=str)
def test_losses_and_gradients_are_those_without_them(kind, counts):
    targets, made = scene(kind, counts)
    ignored = torch.zeros(len(counts), QUERIES, dtype=torch.bool)
    ignored[:, GONE] = True
    found = losses_of(kind, targets, dataclasses.replace(made, ignored=ignored))
    fewer = dataclasses.replace(made, logits=made.logits[:, :, KEPT], boxes=made.boxes[:, :, KEPT])
    expected = losses_of(kind, targets, fewer)
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-12, atol=1e-14)
    of_all, of_fewer = (
        torch.autograd.grad(sum(losses.values()), made.logits)[0] for losses in (found, expected)
    )
    torch.testing.assert_close(of_all, of_fewer, rtol=1e-12, atol=1e-14)
    assert (of_all[:, :, GONE] == 0).all()


def test_more_objects_than_queries_that_count():
    """Some objects go without; none takes what is ignored."""
    targets, made = scene("focal", (3, 2))
    ignored = torch.ones(2, QUERIES, dtype=torch.bool)
    ignored[0, 4] = ignored[1, 6] = False
    term = SupervisionTerm("decoder", HungarianAssigner(), Losses(bbox=L1Loss(1.0)))
    predictions = Predictions({"decoder": dataclasses.replace(made, ignored=ignored)})
    found = Criterion(Terms(x=term)).assign(predictions, targets)["x"]
    assert found.valid.sum((2, 3)).tolist() == [[1, 1]] * LAYERS
    for layer in range(LAYERS):
        for image, query in ((0, 4), (1, 6)):
            assert found.query[layer, image][found.valid[layer, image]].tolist() == [query]


def test_a_quota_is_of_the_queries_that_count():
    targets, made = scene("focal", (3, 2))
    ignored = torch.zeros(2, QUERIES, dtype=torch.bool)
    ignored[:, GONE] = True
    predictions = dataclasses.replace(made, ignored=ignored)
    assigner = ReleasedTopK(threshold=0.0, quota=0.5, k=QUERIES)  # half of 6
    assert assigner.assign(predictions, targets, None).valid.sum((2, 3)).tolist() == [[3, 3]] * 2
    assert assigner.assign(made, targets, None).valid.sum((2, 3)).tolist() == [[4, 4]] * 2


def test_shunned_costs_stay_finite_and_order_the_rest():
    cost = torch.tensor([[[[1.0, -50.0, 3.0]]]], dtype=torch.float64)
    found = shun(cost, torch.tensor([[False, True, False]]))
    assert found[0, 0, 0, [0, 2]].tolist() == [1.0, 3.0]
    assert found[0, 0, 0, 1] > 3.0 and found.isfinite().all()
    assert shun(cost[:, :, :0], torch.tensor([[False, True, False]])).shape == (1, 1, 0, 3)
