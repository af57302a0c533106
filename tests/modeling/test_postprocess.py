import numpy as np
import pytest
import torch

from ms_detr.modeling import Postprocess
from ms_detr.structures import PredictionSet

from ..layers.support import random
from . import reference


def predictions(queries=7, classes=4):
    logits = random(2, 3, queries, classes, seed=1)
    return PredictionSet(logits, random(2, 3, queries, 4, seed=2).sigmoid())


@pytest.mark.parametrize("top_k", [1, 5, 20, 100])
def test_equals_the_loop(top_k):
    """The best pairs of query and class of the last layer; boxes are cut to the image."""
    made = predictions()
    found = Postprocess(top_k)(made)
    for b in range(3):
        logits, boxes = made.logits[-1, b].numpy(), made.boxes[-1, b].numpy()
        expected = reference.detections(logits, boxes, top_k)
        assert len(expected) == min(top_k, 28)
        queries, labels, scores, corners = zip(*expected, strict=True)
        assert found.queries[b].tolist() == list(queries)
        assert found.labels[b].tolist() == list(labels)
        np.testing.assert_allclose(found.scores[b], scores, atol=1e-12)
        np.testing.assert_allclose(found.boxes[b], corners, atol=1e-12)


def test_a_query_may_appear_with_several_classes():
    logits = torch.full((1, 1, 3, 2), -5.0)
    logits[0, 0, 1] = torch.tensor([2.0, 3.0])
    found = Postprocess(2)(PredictionSet(logits, torch.rand(1, 1, 3, 4)))
    assert found.queries.tolist() == [[1, 1]]
    assert found.labels.tolist() == [[1, 0]]


def test_top_k_must_be_positive():
    with pytest.raises(ValueError, match=r"model\.postprocess\.top_k must be at least 1, got 0"):
        Postprocess(0)
