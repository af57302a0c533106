import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from ms_detr.structures import Assignment, PredictionSet
from ms_detr.supervision import FocalLoss, GIoULoss, L1Loss
from ms_detr.supervision.losses import match
from ms_detr.variants.iou_aware import IABCELoss, QualityFocalLoss, RankWeight, VariFocalLoss

from ..layers.reference import iou, sigmoid
from ..supervision import reference
from ..supervision.support import make_images, make_predictions, make_targets

LAYERS, QUERIES, CLASSES, SLOTS = 2, 8, 3, 3
ALPHA, TAU = 0.25, 1.5


def make_scene(seed, counts=(3, 0, 1), slots=SLOTS, shared=True):
    """Predictions, targets and a random assignment in which queries may be shared."""
    rng = np.random.default_rng(seed)
    images = make_images(rng, counts, CLASSES)
    predictions = make_predictions(rng, images, QUERIES, CLASSES, LAYERS)
    shape = (LAYERS, len(counts), max(counts), slots)
    query, valid = np.zeros(shape, np.int64), rng.random(shape) < 0.8
    for layer, b in np.ndindex(*shape[:2]):
        order = rng.permutation(QUERIES)
        for g in range(shape[2]):
            chosen = rng.permutation(QUERIES) if shared else np.roll(order, -g * slots)
            query[layer, b, g] = chosen[:slots]
        valid[layer, b, counts[b] :] = False
    # Few values, so that owners are decided by ties as well.
    score = torch.from_numpy(rng.choice([0.25, 0.5, 0.75], shape))
    targets = make_targets(images)
    assignment = Assignment(
        torch.from_numpy(query), torch.from_numpy(valid), targets.labels, score if shared else None
    )
    return images, predictions, targets, assignment


def qualities(predictions, image, assignment, layer, b):
    """{(query, object): (IoU, t, rank)} of one image and layer."""
    out = {}
    for g in range(len(image["labels"])):
        found = []
        for slot in range(assignment.query.shape[-1]):
            if not assignment.valid[layer, b, g, slot]:
                continue
            q = assignment.query[layer, b, g, slot].item()
            overlap = iou(
                predictions.boxes[layer, b, q].detach().numpy(), image["boxes"][g].numpy()
            )
            p = sigmoid(predictions.logits[layer, b, q, image["labels"][g]].item())
            found.append((q, overlap, max(p**ALPHA * overlap ** (1 - ALPHA), 0.01)))
        found.sort(key=lambda entry: (-entry[2], entry[0]))
        out |= {(q, g): (overlap, t, rank) for rank, (q, overlap, t) in enumerate(found)}
    return out


def owners_of(pairs, assignment, layer, b):
    """{query: object}: the highest score, of equal ones the lower object."""
    owners = {}
    for q, g in sorted(pairs):
        slot = assignment.query[layer, b, g].tolist().index(q)
        score = 0.0 if assignment.score is None else assignment.score[layer, b, g, slot].item()
        if q not in owners or score > owners[q][0]:
            owners[q] = (score, g)
    return {q: g for q, (_, g) in owners.items()}


def varifocal(logit, pair):
    p = torch.sigmoid(logit)
    if pair is None:
        return -0.75 * p**2 * torch.log(1 - p)
    q = pair[0]
    return -q * (q * torch.log(p) + (1 - q) * torch.log(1 - p))


def ia_bce(logit, pair):
    p = torch.sigmoid(logit)
    if pair is None:
        return -(p**2) * torch.log(1 - p)
    t = pair[1] * math.exp(-pair[2] / TAU)
    return -(t * torch.log(p) + (1 - t) * torch.log(1 - p))


def quality_focal(logit, pair):
    p = torch.sigmoid(logit)
    if pair is None:
        return -(p**2) * torch.log(1 - p)
    q = pair[0]
    return (q - p).abs() ** 2 * -(q * torch.log(p) + (1 - q) * torch.log(1 - p))


def loop(cost, images, predictions, assignment, layer):
    """Sum of `cost(logit, pair or None)` over images, queries and classes."""
    total = torch.zeros((), dtype=torch.float64)
    for b, image in enumerate(images):
        pairs = qualities(predictions, image, assignment, layer, b)
        owners = owners_of(pairs, assignment, layer, b)
        for q in range(QUERIES):
            for c in range(CLASSES):
                own = q in owners and image["labels"][owners[q]] == c
                pair = pairs[q, owners[q]] if own else None
                total = total + cost(predictions.logits[layer, b, q, c], pair)
    return total


COSTS = [(VariFocalLoss, varifocal), (QualityFocalLoss, quality_focal), (IABCELoss, ia_bce)]


@pytest.mark.parametrize(("loss", "cost"), COSTS)
@pytest.mark.parametrize("seed", range(4))
def test_equals_the_loop_with_detached_targets(loss, cost, seed):
    images, predictions, targets, assignment = make_scene(seed, shared=seed % 2 == 0)
    logits, boxes = predictions.logits.requires_grad_(), predictions.boxes.requires_grad_()
    out = loss(2.0)(match(predictions, targets, assignment))
    assert out.shape == (LAYERS,)
    for layer in range(LAYERS):
        expected = loop(cost, images, predictions, assignment, layer)
        torch.testing.assert_close(out[layer], expected)
        gradient, of_boxes = torch.autograd.grad(
            out[layer], (logits, boxes), retain_graph=True, allow_unused=True
        )
        torch.testing.assert_close(gradient, torch.autograd.grad(expected, logits)[0])
        assert of_boxes is None


def test_some_query_of_the_scenes_is_shared():
    """Else the tests above would say nothing of owners."""
    _, _, _, assignment = make_scene(0)
    held = assignment.query[0, 0][assignment.valid[0, 0]]
    assert len(held.unique()) < len(held)


# Of IA-BCE without class probability, for a target that moves with the logits is a constant to it.
@pytest.mark.parametrize(
    "loss",
    [
        VariFocalLoss(1.0),
        IABCELoss(1.0, alpha=0.0),
        *(QualityFocalLoss(1.0, beta) for beta in (1.0, 1.5, 2.0)),
    ],
)
def test_gradcheck(loss):
    _, predictions, targets, assignment = make_scene(5)

    def of_logits(logits):
        return loss(match(PredictionSet(logits, predictions.boxes), targets, assignment))

    assert torch.autograd.gradcheck(of_logits, predictions.logits.requires_grad_())


@pytest.mark.parametrize(
    ("loss", "slow"), [(L1Loss, reference.l1_loss), (GIoULoss, reference.giou_loss)]
)
def test_box_losses_of_ranked_pairs(loss, slow):
    images, predictions, targets, assignment = make_scene(1)
    boxes = predictions.boxes.requires_grad_()
    out = loss(1.0, pair_weight=RankWeight(ALPHA, TAU))(match(predictions, targets, assignment))
    for layer in range(LAYERS):
        expected = torch.zeros((), dtype=torch.float64)
        for b, image in enumerate(images):
            pairs = qualities(predictions, image, assignment, layer, b)
            for pair, (_, _, rank) in pairs.items():
                distance = slow(boxes[layer, b], image["boxes"], [pair])
                expected = expected + distance * math.exp(-rank / TAU)
        torch.testing.assert_close(out[layer], expected)
        (gradient,) = torch.autograd.grad(out[layer], boxes, retain_graph=True)
        torch.testing.assert_close(gradient, torch.autograd.grad(expected, boxes)[0])


def one_hot(matches):
    return F.one_hot(matches.labels, CLASSES + 1)[..., :CLASSES].to(matches.logits.dtype)


@given(seed=st.integers(0, 10_000), alpha=st.floats(0, 1), tau=st.floats(0.1, 10))
def test_one_to_one_pairs_have_no_rank(seed, alpha, tau):
    _, predictions, targets, assignment = make_scene(seed, slots=1, shared=False)
    matches = match(predictions, targets, assignment)
    assert (RankWeight(alpha, tau)(matches) == 1).all()


@given(seed=st.integers(0, 10_000))
def test_perfect_boxes_make_it_cross_entropy(seed):
    """IoU 1, no focus on background: both are the plain loss."""
    _, predictions, targets, assignment = make_scene(seed, counts=(2, 1), slots=1, shared=False)
    index = assignment.query[..., 0, None].expand(-1, -1, -1, 4)
    objects = targets.boxes.expand(LAYERS, -1, -1, -1)
    boxes = predictions.boxes.scatter(2, index, objects)
    matches = match(PredictionSet(predictions.logits, boxes), targets, assignment)
    plain = F.binary_cross_entropy_with_logits(matches.logits, one_hot(matches), reduction="none")
    expected = plain.sum((1, 2, 3))
    torch.testing.assert_close(VariFocalLoss(1.0, alpha=1.0, gamma=0.0)(matches), expected)
    torch.testing.assert_close(IABCELoss(1.0, alpha=0.0, gamma=0.0)(matches), expected)


@given(seed=st.integers(0, 10_000))
def test_background_is_that_of_the_focal_loss(seed):
    _, predictions, targets, assignment = make_scene(seed)
    nobody = Assignment(
        assignment.query, torch.zeros_like(assignment.valid), assignment.labels, assignment.score
    )
    matches = match(predictions, targets, nobody)
    focal = FocalLoss(1.0, alpha=0.25, gamma=2.0)(matches)
    torch.testing.assert_close(VariFocalLoss(1.0)(matches), focal)
    torch.testing.assert_close(IABCELoss(1.0)(matches), focal / 0.75)
    torch.testing.assert_close(QualityFocalLoss(1.0)(matches), focal / 0.75)


@pytest.mark.parametrize("loss", [VariFocalLoss, QualityFocalLoss, IABCELoss])
def test_images_without_objects(loss):
    _, predictions, targets, assignment = make_scene(0, counts=(0, 0))
    logits = predictions.logits.requires_grad_()
    out = loss(1.0)(match(predictions, targets, assignment))
    assert out.isfinite().all()
    out.sum().backward()
    assert (logits.grad > 0).all()
    ranked = L1Loss(1.0, pair_weight=RankWeight())
    assert ranked(match(predictions, targets, assignment)).tolist() == [0, 0]


@pytest.mark.parametrize("loss", [VariFocalLoss, QualityFocalLoss, IABCELoss])
@pytest.mark.parametrize("logit", [-200.0, 200.0])
def test_sure_predictions_and_boxes_without_area_are_finite(loss, logit):
    _, predictions, targets, assignment = make_scene(0)
    logits = torch.full_like(predictions.logits, logit).requires_grad_()
    boxes = predictions.boxes.clone()
    boxes[..., 2:] = 0
    out = loss(1.0)(match(PredictionSet(logits, boxes), targets, assignment))
    out.sum().backward()
    assert out.isfinite().all()
    assert logits.grad.isfinite().all()


def test_quality_of_boxes_smaller_than_a_pixel():
    """A perfect box of 0.0005 x 0.001 of the image: half the least union, so half the quality."""
    box = torch.tensor([0.3, 0.4, 0.0005, 0.001], dtype=torch.float64).view(1, 1, 1, 4)
    logit = torch.tensor([[[[0.7]]]], dtype=torch.float64, requires_grad=True)
    one = torch.zeros(1, 1, 1, 1, dtype=torch.int64)
    assignment = Assignment(one, one == 0, one[0, 0])
    targets = make_targets([{"labels": one[0, 0, 0], "boxes": box[0, 0]}])
    out = QualityFocalLoss(1.0)(match(PredictionSet(logit, box), targets, assignment))
    torch.testing.assert_close(out[0], quality_focal(logit[0, 0, 0, 0], (0.5,)))


def test_what_is_ignored_has_no_quality():
    """As if the query were not there."""
    _, predictions, targets, assignment = make_scene(3, slots=1, shared=False)
    ignored = torch.rand(3, QUERIES, generator=torch.Generator().manual_seed(0)) < 0.5
    few = assignment.without(ignored)
    matches = match(dataclasses.replace(predictions, ignored=ignored), targets, few)
    out = QualityFocalLoss(1.0)(matches)
    expected = torch.zeros_like(out)
    for b, q in (~ignored).nonzero().tolist():
        one = dataclasses.replace(matches, ignored=torch.ones_like(ignored))
        one.ignored[b, q] = False
        expected += QualityFocalLoss(1.0)(one)
    torch.testing.assert_close(out, expected)
    changed = predictions.logits + 3.0 * ignored[None, :, :, None]
    again = match(PredictionSet(changed, predictions.boxes, ignored=ignored), targets, few)
    torch.testing.assert_close(QualityFocalLoss(1.0)(again), out)


def test_quality_focal_loss_refuses_a_slope_without_bound():
    with pytest.raises(ValueError, match="beta is at least 1, got 0.5"):
        QualityFocalLoss(1.0, beta=0.5)


@pytest.mark.parametrize("options", [dict(alpha=-0.1), dict(alpha=1.5), dict(tau=0.0)])
def test_refuses_what_makes_no_rank(options):
    (name,) = options
    with pytest.raises(ValueError, match=name):
        IABCELoss(1.0, **options)
