"""PaperTopK and MergedTopK; ReleasedTopK has a file of its own."""

import numpy as np
import pytest
import torch

from ms_detr.structures import Predictions, PredictionSet
from ms_detr.supervision import (
    Criterion,
    HungarianAssigner,
    L1Loss,
    Losses,
    MergedTopK,
    PaperTopK,
    SupervisionTerm,
    Terms,
)

from .support import make_images, make_predictions, make_targets, pairs, score_of


def crowded(seed, queries=24):
    """Images of 0 to 7 objects, some of them twice."""
    rng = np.random.default_rng(seed)
    images = make_images(rng, rng.integers(0, 8, 3), classes=2)
    for image in images:
        if len(image["labels"]) > 2:
            image["boxes"][1], image["labels"][1] = image["boxes"][0], image["labels"][0]
    return images, make_predictions(rng, images, queries, classes=2, spread=0.3)


def paper_top_k(score, k, threshold):
    """Pairs of one image: each object's best queries that reach the threshold."""
    found = set()
    for g, row in enumerate(score):
        ranking = sorted(range(len(row)), key=lambda q: (-row[q], q))
        found |= {(q, g) for q in ranking[:k] if row[q] >= threshold}
    return found


@pytest.mark.parametrize(
    ("k", "threshold", "alpha"), [(6, 0.4, 0.3), (1, 0.2, 0.0), (40, 0.5, 1.0)]
)
def test_paper_top_k_equals_the_loop(k, threshold, alpha):
    shared = unmatched = 0
    for seed in range(60):
        images, predictions = crowded(seed)
        assigner = PaperTopK(k, threshold, alpha)
        assignment = assigner.assign(predictions, make_targets(images), None)
        for layer in range(2):
            for b in range(3):
                score = score_of(predictions, images, layer, b, alpha)
                found = pairs(assignment, layer, b)
                assert found == paper_top_k(score, k, threshold)
                queries = [q for q, _ in found]
                shared += len(set(queries)) < len(queries)
                unmatched += len({g for _, g in found}) < len(score)
    assert shared > 10 and (unmatched > 10 or alpha < 0.3 or alpha == 1)


def test_paper_top_k_counts_a_score_at_the_threshold():
    box = torch.tensor([0.5, 0.5, 0.4, 0.4], dtype=torch.float64)
    predictions = PredictionSet(torch.zeros(1, 1, 3, 1).double(), box.expand(1, 1, 3, 4))
    targets = make_targets([{"labels": torch.zeros(1).long(), "boxes": box[None]}])
    assigner = PaperTopK(k=2, threshold=0.5, alpha=1.0)  # sigmoid(0) is 0.5
    assert pairs(assigner.assign(predictions, targets, None), 0, 0) == {(0, 0), (1, 0)}
    higher = PaperTopK(k=2, threshold=0.51, alpha=1.0)
    assert pairs(higher.assign(predictions, targets, None), 0, 0) == set()


def merge(one_to_one, one_to_many, score):
    """The published index merge: one-to-one pairs, overwritten by one-to-many ones as they rise."""
    owner = dict(one_to_one)
    for q, g in sorted(one_to_many, key=lambda pair: (score[pair[1], pair[0]], -pair[1])):
        owner[q] = g
    return set(owner.items())


def test_merged_equals_the_loop():
    overwritten = added = 0
    hungarian = HungarianAssigner()
    for seed in range(60):
        images, predictions = crowded(seed)
        # The other term's predictions are others, of the same queries.
        _, others = crowded(seed + 1000)
        targets = make_targets(images)
        costs = hungarian.host_costs(others, targets).numpy()
        one_to_one = hungarian.assign(others, targets, costs)
        assigner = MergedTopK(quota=1.0)
        own = assigner.assign(predictions, targets, None)
        merged = assigner.combine(own, predictions, {"o2o": one_to_one, "o2m": own})
        for layer in range(2):
            for b in range(3):
                score = score_of(predictions, images, layer, b, 0.3)
                first, many = pairs(one_to_one, layer, b), pairs(own, layer, b)
                expected = merge(first, many, score)
                found = pairs(merged, layer, b)
                assert found == expected
                assert len({q for q, _ in found}) == len(found)
                overwritten += bool({q for q, _ in first} & {q for q, _ in many})
                added += bool(first - many)
    assert overwritten > 50 and added > 50


def criterion(**options):
    return Criterion(
        Terms(
            o2o=SupervisionTerm("decoder", HungarianAssigner(), Losses(bbox=L1Loss(1.0))),
            o2m=SupervisionTerm("other", MergedTopK(**options), Losses(bbox=L1Loss(1.0))),
        )
    )


def test_criterion_hands_the_other_assignment_over():
    images, predictions = crowded(5)
    _, others = crowded(6)
    both = Predictions({"decoder": others, "other": predictions})
    losses = criterion(quota=1.0)(both, make_targets(images))
    count = sum(len(image["labels"]) for image in images)
    hungarian, assigner = HungarianAssigner(), MergedTopK(quota=1.0)
    targets = make_targets(images)
    first = hungarian.assign(others, targets, hungarian.host_costs(others, targets).numpy())
    own = assigner.assign(predictions, targets, None)
    for layer in range(2):
        expected = 0.0
        for b, image in enumerate(images):
            score = score_of(predictions, images, layer, b, 0.3)
            for q, g in merge(pairs(first, layer, b), pairs(own, layer, b), score):
                expected += (predictions.boxes[layer, b, q] - image["boxes"][g]).abs().sum().item()
        assert losses[f"o2m/loss_bbox/{layer}"].item() == pytest.approx(expected / count)


def test_merging_with_what_is_not_there():
    images, predictions = crowded(5)
    both = Predictions({"decoder": predictions, "other": predictions})
    with pytest.raises(ValueError, match=r"term 'o2x', but the terms are \['o2m', 'o2o'\]"):
        criterion(merge_with="o2x")(both, make_targets(images))
    fewer = PredictionSet(predictions.logits[:1], predictions.boxes[:1])
    both = Predictions({"decoder": fewer, "other": predictions})
    with pytest.raises(ValueError, match="term 'o2o' has other layers"):
        criterion()(both, make_targets(images))


@pytest.mark.parametrize("assigner", [PaperTopK, MergedTopK])
@pytest.mark.parametrize(
    ("option", "message"), [({"k": 0}, "k is the most"), ({"alpha": 1.5}, "alpha of the one")]
)
def test_wrong_options(assigner, option, message):
    with pytest.raises(ValueError, match=message):
        assigner(**option)
