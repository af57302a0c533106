"""Losses that are means over the pairs that were assigned."""

from dataclasses import replace

import pytest
import torch

from ms_detr.structures import CountedLosses, Predictions, PredictionSet, Step
from ms_detr.supervision import AssignedPairs, Criterion, ReleasedTopK, SupervisionTerm, Terms

from .support import make_targets
from .test_criterion import COUNTS, LAYERS, O2M, losses, make_criterion, released, scene


@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_losses_divided_by_the_pairs_that_were_assigned(counts):
    """Each layer by its own, which the loops count; the others' losses stay as they are."""
    images, predictions = scene(counts)
    targets = make_targets(images)
    usual = make_criterion()
    by_pairs = make_criterion()
    by_pairs.terms["o2m"] = SupervisionTerm(
        O2M, ReleasedTopK(), losses(2.0), objects=AssignedPairs()
    )
    found, before = by_pairs(predictions, targets), usual(predictions, targets)
    made = predictions[O2M]
    several = False
    for layer in range(LAYERS):
        pairs = 0
        for b, image in enumerate(images):
            logits, boxes = made.logits[layer, b].detach(), made.boxes[layer, b].detach()
            pairs += len(released(b, logits.numpy(), boxes.numpy(), image)[0])
        several |= pairs > sum(counts)
        for name in ("class", "bbox", "giou"):
            key = f"o2m/loss_{name}/{layer}"
            expected = before[key] * max(1, sum(counts)) / max(1, pairs)
            torch.testing.assert_close(found[key], expected)
            assert found.counts[key] == pairs
    assert several == any(counts)
    assert all(found[key] == before[key] for key in before if not key.startswith("o2m/"))


def by_pairs(counts, images=slice(None)):
    """One-to-many losses of some of a scene's images, as a process or a part has them."""
    everything, predictions = scene(counts)
    made, here = predictions[O2M], everything[images]
    here_made = PredictionSet(made.logits[:, images], made.boxes[:, images])
    targets = make_targets(here)
    if len(here) < len(everything):
        step = Step(sum(counts), sum(counts), max(counts), len(counts))
        targets = replace(targets, step=step)
    term = SupervisionTerm(O2M, ReleasedTopK(), losses(2.0), objects=AssignedPairs())
    return Criterion(Terms(o2m=term))(Predictions({O2M: here_made}), targets), targets.share


def test_assigned_pairs_of_processes_count_together():
    """As one process would have all images: the mean of the processes' losses."""
    counts = (3, 1, 0, 5)
    whole, _ = by_pairs(counts)
    parts = [by_pairs(counts, images) for images in (slice(1), slice(1, 4))]
    # Alone, a process knows no step.
    ranks = [
        CountedLosses({name: loss / share for name, loss in part.items()}, part.counts)
        for part, share in parts
    ]
    means = {name: (ranks[0].counts[name] + ranks[1].counts[name]) / 2 for name in whole}
    known = [rank.counted_as(means) for rank in ranks]
    for name, loss in whole.items():
        torch.testing.assert_close((known[0][name] + known[1][name]) / 2, loss)
    assert any(known[0][name] != ranks[0][name] for name in whole)


def test_assigned_pairs_of_parts_weigh_by_their_images():
    """Each part's mean counts as much as it has of the step's images."""
    counts = (3, 1, 0, 5)
    pairs = [by_pairs(counts, images) for images in (slice(1), slice(1, 4))]
    assert [share for _, share in pairs] == [0.25, 0.75]
    whole, _ = by_pairs(counts)
    for name, loss in whole.items():
        sums = [part[name] / share * part.counts[name] for part, share in pairs]
        torch.testing.assert_close(sum(sums) / whole.counts[name], loss)
