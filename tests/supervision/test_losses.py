import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ms_detr.structures import Assignment, PredictionSet
from ms_detr.supervision import FocalLoss, GIoULoss, L1Loss, Losses, losses
from ms_detr.supervision.losses import focal_loss, match, query_labels

from . import reference
from .support import make_images, make_predictions, make_targets

LAYERS, QUERIES, CLASSES = 2, 6, 3


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.5, 1.0), (0.25, 0.0)])
def test_focal_loss_equals_the_loop(alpha, gamma):
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(0, 3, (LAYERS, 2, QUERIES, CLASSES))).requires_grad_()
    labels = torch.from_numpy(rng.integers(0, CLASSES + 1, (LAYERS, 2, QUERIES)))
    out = focal_loss(logits, labels, alpha, gamma)
    assert out.shape == (LAYERS,)
    for layer in range(LAYERS):
        expected = sum(
            reference.class_loss(logits[layer, b], labels[layer, b].tolist(), alpha, gamma)
            for b in range(2)
        )
        torch.testing.assert_close(out[layer], expected)
        (gradient,) = torch.autograd.grad(out[layer], logits, retain_graph=True)
        (other,) = torch.autograd.grad(expected, logits)
        torch.testing.assert_close(gradient, other)


@pytest.mark.parametrize("pieces", [1, 3, 100])
def test_focal_loss_by_pieces(pieces, monkeypatch):
    monkeypatch.setattr(losses, "CACHED", LAYERS * 2 * QUERIES * CLASSES // pieces)
    rng = np.random.default_rng(1)
    logits = torch.from_numpy(rng.normal(0, 3, (LAYERS, 2, QUERIES, CLASSES))).requires_grad_()
    labels = torch.from_numpy(rng.integers(0, CLASSES + 1, (LAYERS, 2, QUERIES)))
    expected = reference.class_loss(logits.flatten(0, 2), labels.flatten().tolist(), 0.25, 2.0)
    torch.testing.assert_close(focal_loss(logits, labels, 0.25, 2.0).sum(), expected)
    assert torch.autograd.gradcheck(lambda x: focal_loss(x, labels, 0.25, 2.0), logits)


def test_focal_loss_of_one_logit():
    """Written out: p = 1/2, so 1/4 of log 2, times 0.25 or 0.75."""
    logits = torch.zeros(1, 1, 1, 1)
    log2 = float(np.log(2))
    assert focal_loss(logits, torch.tensor([[[0]]]), 0.25, 2.0).item() == pytest.approx(log2 / 16)
    background = torch.tensor([[[1]]])
    assert focal_loss(logits, background, 0.25, 2.0).item() == pytest.approx(3 * log2 / 16)


@pytest.mark.parametrize("logit", [-100.0, 100.0])
@pytest.mark.parametrize("label", [0, 1])
def test_focal_loss_of_sure_predictions_is_finite(logit, label):
    logits = torch.full((1, 1, 1, 1), logit, requires_grad=True)
    loss = focal_loss(logits, torch.tensor([[[label]]]), 0.25, 2.0)
    loss.sum().backward()
    right = (logit > 0) == (label == 0)
    assert loss.item() == pytest.approx(0 if right else (25 if label == 0 else 75))
    assert logits.grad.isfinite().all()


def assignment_of(query, score, labels):
    """One layer and image: query[g] and score[g] are lists of the object's queries."""
    slots = max(len(row) for row in query)
    shape = (1, 1, len(query), slots)
    queries, valid = torch.zeros(shape).long(), torch.zeros(shape).bool()
    scores = torch.full(shape, 2.0)  # in unused slots, which must not count
    for g, row in enumerate(query):
        queries[0, 0, g, : len(row)] = torch.tensor(row).long()
        valid[0, 0, g, : len(row)] = True
        scores[0, 0, g, : len(row)] = torch.tensor(score[g])
    return Assignment(queries, valid, torch.tensor([labels]), scores)


def labels_of(assignment):
    labels = query_labels(CLASSES, assignment, assignment.owners(QUERIES))[0, 0]
    return [None if label == CLASSES else label.item() for label in labels]


def test_the_highest_score_gives_a_shared_query_its_class():
    first = assignment_of([[1, 2], [2, 3]], [[0.5, 0.9], [0.6, 0.7]], [0, 2])
    assert labels_of(first) == [None, 0, 0, 2, None, None]
    second = assignment_of([[1, 2], [2, 3]], [[0.5, 0.5], [0.6, 0.7]], [0, 2])
    assert labels_of(second) == [None, 0, 2, 2, None, None]


def test_of_equal_scores_the_lower_object_gives_the_class():
    assert labels_of(assignment_of([[1], [1], [1]], [[0.5]] * 3, [2, 0, 1]))[1] == 2
    assert labels_of(assignment_of([[1], [1], [1]], [[0.4], [0.5], [0.5]], [2, 0, 1]))[1] == 0


def test_unused_slots_give_no_class():
    assignment = assignment_of([[4], [], [5, 1]], [[0.1], [], [0.2, 0.3]], [0, 1, 2])
    assert labels_of(assignment) == [None, 2, None, None, 0, 2]


def test_classes_without_scores():
    queries = torch.tensor([3, 0]).view(1, 1, 2, 1)
    valid = torch.tensor([True, False]).view(1, 1, 2, 1)
    assignment = Assignment(queries, valid, torch.tensor([[1, 2]]))
    assert labels_of(assignment) == [None, None, None, 1, None, None]


@given(data=st.data())
def test_classes_equal_the_loop(data):
    objects = data.draw(st.integers(1, 4))
    rows = st.lists(st.integers(0, QUERIES - 1), unique=True, max_size=4)
    query = data.draw(st.lists(rows, min_size=objects, max_size=objects))
    query[0] = query[0] or [0]
    # Few values, so that ties are common.
    score = [[data.draw(st.sampled_from([0.25, 0.5, 0.75])) for _ in row] for row in query]
    labels = data.draw(st.lists(st.integers(0, CLASSES - 1), min_size=objects, max_size=objects))
    matrix = np.zeros((objects, QUERIES))
    for g, row in enumerate(query):
        matrix[g, row] = score[g]
    pairs = {(q, g) for g, row in enumerate(query) for q in row}
    expected = reference.class_of_queries(pairs, matrix, labels, QUERIES)
    assert labels_of(assignment_of(query, score, labels)) == expected


def shared_query():
    """Query 2 is held by both objects of image 0; image 1 has one object, and a padding one."""
    rng = np.random.default_rng(0)
    images = make_images(rng, [2, 1])
    predictions = make_predictions(rng, images, QUERIES, layers=LAYERS)
    query = torch.tensor([[[2, 1], [2, 0]], [[5, 3], [4, 4]]]).expand(LAYERS, -1, -1, -1)
    valid = torch.tensor([[[1, 1], [1, 0]], [[1, 0], [0, 0]]]).bool().expand(LAYERS, -1, -1, -1)
    targets = make_targets(images)
    assignment = Assignment(query, valid, targets.labels, torch.rand(LAYERS, 2, 2, 2).double())
    pairs = [{(2, 0), (1, 0), (2, 1)}, {(5, 0)}]
    return images, predictions, targets, assignment, pairs


@pytest.mark.parametrize(
    ("loss", "loop"), [(L1Loss(3.0), reference.l1_loss), (GIoULoss(3.0), reference.giou_loss)]
)
def test_box_losses_count_every_pair(loss, loop):
    images, predictions, targets, assignment, pairs = shared_query()
    boxes = predictions.boxes.requires_grad_()
    out = loss(match(PredictionSet(predictions.logits, boxes), targets, assignment))
    for layer in range(LAYERS):
        expected = sum(loop(boxes[layer, b], images[b]["boxes"], pairs[b]) for b in range(2))
        torch.testing.assert_close(out[layer], expected)
        (gradient,) = torch.autograd.grad(out[layer], boxes, retain_graph=True)
        (other,) = torch.autograd.grad(expected, boxes)
        torch.testing.assert_close(gradient, other)


@pytest.mark.parametrize("loss", [L1Loss(1.0), GIoULoss(1.0)])
def test_box_losses_without_objects_are_zero_and_have_a_gradient(loss):
    rng = np.random.default_rng(0)
    images = make_images(rng, [0, 0])
    predictions = make_predictions(rng, images, QUERIES)
    boxes = predictions.boxes.requires_grad_()
    empty = torch.zeros(2, 2, 0, 1)
    assignment = Assignment(empty.long(), empty.bool(), torch.zeros(2, 0).long())
    out = loss(match(PredictionSet(predictions.logits, boxes), make_targets(images), assignment))
    assert out.tolist() == [0, 0]
    out.sum().backward()
    assert (boxes.grad == 0).all()


def test_none_drops_a_loss():
    assert set(Losses(bbox=L1Loss(5.0), giou=None)) == {"bbox"}
    assert FocalLoss(1.0).alpha == 0.25
    assert FocalLoss(1.0).gamma == 2.0
