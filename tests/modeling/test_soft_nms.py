"""Soft-NMS against a loop over one image's detections."""

import dataclasses

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st

from ms_detr.modeling import Detections, Postprocess, SoftNMS
from ms_detr.recipes import deformable_detr, with_masks
from ms_detr.structures import PredictionSet
from ms_detr.variants.detr import OneClassPostprocess

from . import reference
from .support import make_batch, rooted


def iou(a, b):
    """Of two boxes (x1, y1, x2, y2)."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    inter = max(width, 0.0) * max(height, 0.0)
    union = sum((x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (a, b)) - inter
    return inter / union if union > 0 else 0.0


def soft_nms(detections, threshold, min_score, keep):
    """Of (score, box, label, query) those that are taken, in this order."""
    rest = [x for x in detections if x[0] > 0]
    taken = []
    while rest and len(taken) < keep:
        best = max(range(len(rest)), key=lambda i: (rest[i][0], -i))
        score, box, label, query = rest.pop(best)
        taken.append((score, box, label, query))
        decayed = []
        for other, its_box, its_label, its_query in rest:
            overlap = iou(box, its_box)
            if its_label == label and overlap >= threshold:
                other *= 1 - overlap
            if other >= min_score and other > 0:
                decayed.append((other, its_box, its_label, its_query))
        rest = decayed
    return taken


def crowd(seed, queries=25, classes=2, spread=0.02, dtype=torch.float64):
    """Predictions of queries that gather around three places, two layers and images."""
    rng = torch.Generator().manual_seed(seed)
    places = torch.tensor([[0.3, 0.3, 0.2, 0.3], [0.6, 0.5, 0.3, 0.2], [0.9, 0.9, 0.4, 0.4]])
    chosen = torch.randint(3, (2, 2, queries), generator=rng)
    noise = torch.randn(2, 2, queries, 4, generator=rng)
    boxes = (places[chosen] * (1 + spread * noise)).to(dtype)
    logits = 3 * torch.randn(2, 2, queries, classes, generator=rng) - 3
    return PredictionSet(logits.to(dtype), boxes)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    threshold=st.sampled_from([0.0, 0.5, 0.8, 1.0]),
    min_score=st.sampled_from([0.0, 1e-3, 0.1]),
    candidates=st.sampled_from([1, 10, 1000]),
    top_k=st.sampled_from([1, 5, 300]),
    kind=st.sampled_from([Postprocess, OneClassPostprocess]),
)
def test_equals_the_loop(seed, threshold, min_score, candidates, top_k, kind):
    """Which detections, in which order, with which score, class and query."""
    made = crowd(seed)
    nms = SoftNMS(candidates, iou_threshold=threshold, min_score=min_score)
    found = kind(top_k, nms)(made)
    given = kind(candidates)(made)
    for b in range(2):
        parts = given.scores[b], given.boxes[b], given.labels[b], given.queries[b]
        detections = list(zip(*(x.tolist() for x in parts), strict=True))
        expected = soft_nms(detections, threshold, min_score, top_k)
        own = found.of(b)
        assert own.labels[0].tolist() == [label for _, _, label, _ in expected]
        assert own.queries[0].tolist() == [query for *_, query in expected]
        scores = torch.tensor([score for score, *_ in expected], dtype=torch.float64)
        torch.testing.assert_close(own.scores[0], scores)
        boxes = torch.tensor([box for _, box, *_ in expected], dtype=torch.float64)
        torch.testing.assert_close(own.boxes[0], boxes.view(-1, 4))
        assert (own.scores.diff() <= 0).all()


def planted(scores, boxes, labels):
    """Detections of one image."""
    count = len(scores)
    return Detections(
        torch.tensor(boxes, dtype=torch.float64)[None],
        torch.tensor(scores, dtype=torch.float64)[None],
        torch.tensor(labels)[None],
        torch.arange(count)[None],
    )


def test_a_planted_crowd():
    """Two people a tenth apart stay as they are, copies and another class's box by the rules."""
    person, beside = [0.1, 0.1, 0.3, 0.5], [0.2, 0.1, 0.4, 0.5]
    almost = [0.1, 0.1, 0.3, 0.46]  # IoU 0.9
    found = SoftNMS(candidates=10)(
        planted(
            [0.9, 0.8, 0.7, 0.6, 0.5, 0.0005],
            [person, person, beside, almost, person, [0.7, 0.7, 0.9, 0.9]],
            [0, 0, 0, 0, 1, 0],
        ),
        keep=300,
    )
    assert found.counts == (4,)
    assert found.of(0).queries.tolist() == [[0, 2, 4, 3]]
    torch.testing.assert_close(
        found.of(0).scores, torch.tensor([[0.9, 0.7, 0.5, 0.06]], dtype=torch.float64)
    )


def test_the_first_is_taken_whatever_its_score():
    found = SoftNMS(10)(planted([5e-4, 4e-4], [[0, 0, 1, 1], [0, 0, 0.1, 0.1]], [0, 1]), keep=5)
    assert found.of(0).queries.tolist() == [[0]]


@pytest.mark.parametrize(("threshold", "score"), [(0.5, 0.4), (0.51, 0.8)])
def test_an_overlap_of_just_the_threshold_costs_score(threshold, score):
    boxes = [[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.5, 1.0]]
    found = SoftNMS(10, iou_threshold=threshold)(planted([0.9, 0.8], boxes, [0, 0]), keep=5)
    torch.testing.assert_close(found.scores, torch.tensor([[0.9, score]], dtype=torch.float64))


def test_identical_boxes_leave_one():
    found = SoftNMS(10, min_score=0.0)(planted([0.9] * 4, [[0.2, 0.2, 0.4, 0.4]] * 4, [1] * 4), 9)
    assert found.of(0).queries.tolist() == [[0]]


def test_images_may_have_different_counts():
    made = crowd(0, spread=0.0)
    logits = made.logits.clone()
    logits[-1, 0] = -20.0
    found = Postprocess(300, SoftNMS(100))(dataclasses.replace(made, logits=logits))
    assert found.counts[0] == 1 < found.counts[1]
    assert found.of(0).boxes.shape == (1, 1, 4)
    assert found.boxes.shape[1] >= max(found.counts)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_half_of_the_digits(dtype):
    """Scores of half precision; the boxes of the decoder never are."""
    made = crowd(3, dtype=torch.float32)
    half = dataclasses.replace(made, logits=made.logits.to(dtype))
    found = Postprocess(300, SoftNMS(100))(half)
    assert found.scores.dtype == torch.float32 and min(found.counts) > 1


def test_without_nms_it_is_the_published_postprocess():
    made = crowd(1)
    found = Postprocess(20)(made)
    assert found.counts is None and found.of(1).boxes.shape == (1, 20, 4)
    expected = reference.detections(made.logits[-1, 1].numpy(), made.boxes[-1, 1].numpy(), 20)
    assert found.queries[1].tolist() == [query for query, *_ in expected]


def test_masks_are_those_of_the_queries_that_are_left():
    cfg = rooted(with_masks(deformable_detr(), num_points=50))
    torch.manual_seed(0)
    model = instantiate(cfg).eval()
    batch = make_batch()
    every = [x["instances"] for x in model(batch)]
    middle = max(float(x.scores.median()) for x in every)
    cfg.postprocess.nms = L(SoftNMS)(candidates=100, iou_threshold=0.5, min_score=middle)
    torch.manual_seed(0)
    model = instantiate(cfg).eval()
    for all_of_them, x in zip(every, model(batch), strict=True):
        left = x["instances"]
        assert 0 < len(left) < len(all_of_them)
        assert len(left.pred_masks) == len(left)
        for box, label, mask in zip(
            left.pred_boxes.tensor, left.pred_classes, left.pred_masks, strict=True
        ):
            same = (all_of_them.pred_boxes.tensor == box).all(1) & (
                all_of_them.pred_classes == label
            )
            assert torch.equal(all_of_them.pred_masks[same][0], mask)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(candidates=0), "at least 1 candidate, got 0"),
        (dict(candidates=5, iou_threshold=1.5), "iou_threshold is from 0 to 1, got 1.5"),
        (dict(candidates=5, min_score=-1), "min_score is from 0 to 1, got -1"),
    ],
)
def test_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        SoftNMS(**options)
