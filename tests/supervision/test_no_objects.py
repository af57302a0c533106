"""A batch without objects: what divides the losses, by the formulas of the published code.

Hybrid DETR's code divides by ``max(k * objects, 1)``, Group DETR's by ``max(groups * objects, 1)``,
all others by ``max(objects, 1)``; so without objects each divides by 1. Nothing but background is
left: boxes, masks and denoising cost nothing.
"""

import dataclasses

import numpy as np
import pytest
import torch
from detectron2.config import instantiate

from ms_detr.config import load
from ms_detr.structures import Assignment, Predictions
from ms_detr.supervision import Criterion, LocalObjects

from ..modeling.support import ROOT
from . import reference
from .support import make_images, make_predictions, make_targets

CLASSES, LAYERS = 3, 2
LOSSES = ("class", "bbox", "giou")


def terms_of(config):
    return load(ROOT / "configs" / f"{config}.py").model.criterion.terms


def predictions_for(terms, counts, groups=11):
    """Of all sources of the terms: 10 queries, in a block a further group, none for denoising."""
    rng = np.random.default_rng(0)
    images = make_images(rng, counts, CLASSES)
    sources = [term.source for term in terms.values()]
    averaged = {x.place for x in sources if x.group == "group"}
    made = {}
    for term in terms.values():
        source, layered = term.source, term.source.place == "decoder"
        rows = 0 if source.group == "denoising" else 10
        layers = LAYERS if layered else 1
        predictions = make_predictions(rng, images, rows, CLASSES, layers, layered=layered)
        if source.group == "group":
            predictions = dataclasses.replace(
                predictions, blocks=(10 // (groups - 1),) * (groups - 1)
            )
        if source.group in ("", "group") and source.place in averaged:
            predictions = dataclasses.replace(predictions, peers=groups)
        if source.group == "denoising":
            shape = (1, len(counts), 0, 7)
            nothing = torch.zeros(shape, dtype=torch.int64)
            labels = torch.zeros(len(counts), 0, dtype=torch.int64)
            known = Assignment(nothing, nothing.bool(), labels, copies=7)
            predictions = dataclasses.replace(predictions, assignment=known)
        made[source] = predictions
    return images, Predictions(made)


def focal(logits):
    """Of queries without object, (Q, K)."""
    return reference.class_loss(logits, [None] * len(logits))


def ia_bce(logits):
    p = logits.sigmoid()
    return -(p**2 * torch.log(1 - p)).sum()


# Config, and by term what the published code multiplies the background's cost by.
PUBLISHED = {
    "deformable_detr/deformable_detr_r50_300q_12ep": dict(o2o=2, encoder=2),
    "ms_detr/ms_detr_r50_300q_12ep": dict(o2o=1, o2m=2, encoder=2),
    "hybrid_detr/hybrid_deformable_detr_pp_r50_300q_12ep": dict(o2o=2, hybrid=2, encoder=2),
    "ms_detr/ms_detr_hybrid_pp_r50_300q_12ep": dict(o2o=1, o2m=2, hybrid=1, encoder=2),
    "group_detr/group_deformable_detr_pp_r50_300q_12ep": dict(o2o=2, group=2, encoder=2),
    "group_detr/group_conditional_detr_r50_300q_50ep": dict(o2o=2, group=2),
    "group_detr/group_dino_r50_4scale_12ep": dict(
        o2o=1, group=1, encoder=1, group_encoder=1, denoising=0
    ),
    # One-to-many supervision is weighed as the other terms of the primary queries.
    "ms_detr/ms_detr_group_pp_r50_300q_12ep": dict(o2o=1, o2m=2, group=1, encoder=2),
    "dn_detr/dn_deformable_detr_pp_r50_300q_12ep": dict(o2o=2, encoder=2, denoising=0),
    "dino/dino_r50_4scale_12ep": dict(o2o=1, encoder=1, denoising=0),
    "align_detr/align_detr_r50_4scale_12ep": dict(o2o=1, encoder=1, denoising=0),
}


@pytest.mark.parametrize("config", PUBLISHED)
def test_losses_are_the_backgrounds(config):
    terms = instantiate(terms_of(config))
    assert set(terms) == set(PUBLISHED[config])
    images, predictions = predictions_for(terms, (0, 0))
    found = Criterion(terms)(predictions, make_targets(images))
    cost = ia_bce if config.startswith("align") else focal
    for name, weight in PUBLISHED[config].items():
        made = predictions[terms[name].source]
        for layer in range(len(made.logits)):
            ending = f"/{layer}" if made.layered else ""
            background = sum(cost(logits) for logits in made.logits[layer])
            value = found[f"{name}/loss_class{ending}"].item()
            assert value == pytest.approx(weight * background.item(), rel=1e-12), name
            assert (value == 0) == (name == "denoising")
            assert found[f"{name}/loss_bbox{ending}"] == found[f"{name}/loss_giou{ending}"] == 0


def test_dividing_by_own_objects_counts_their_copies_too():
    terms = terms_of("hybrid_detr/hybrid_deformable_detr_pp_r50_300q_12ep")
    terms.hybrid.objects = {"_target_": LocalObjects}
    terms = instantiate(terms)
    images, predictions = predictions_for(terms, (0, 0))
    found = Criterion(terms)(predictions, make_targets(images))
    logits = predictions["hybrid.decoder"].logits[1]
    background = 2 * sum(focal(x) for x in logits)
    assert found["hybrid/loss_class/1"].item() == pytest.approx(background.item(), rel=1e-12)


@pytest.mark.parametrize("counts", [(0, 0), (2, 1)], ids=str)
@pytest.mark.parametrize("config", ["group_deformable_detr_pp_r50_300q", "group_dino_r50_4scale"])
def test_group_detr_is_one_criterion_over_all_groups(config, counts):
    """The published code: every group matched by itself, all added up, the count times groups."""
    terms = terms_of(f"group_detr/{config}_12ep")
    terms.denoising = None
    images, predictions = predictions_for(instantiate(terms), counts, groups=3)
    found = Criterion(instantiate(terms))(predictions, make_targets(images))
    pairs = [("o2o", "group")] + [("encoder", "group_encoder")] * ("group_encoder" in terms)
    for first, others in pairs:
        primary, further = (predictions[terms[name].source] for name in (first, others))
        weights = {x: terms[first].losses[x].weight for x in LOSSES}
        divisor = max(3 * sum(counts), 1)
        for layer in range(len(primary.logits)):
            parts = [(primary, slice(0, 10)), (further, slice(0, 5)), (further, slice(5, 10))]
            losses = [
                reference.term_losses(
                    made.logits[layer, :, span], made.boxes[layer, :, span], images, matched,
                    divisor, weights
                )
                for made, span in parts
            ]  # fmt: skip
            ending = f"/{layer}" if primary.layered else ""
            for x in LOSSES:
                value = sum(found[f"{name}/loss_{x}{ending}"] for name in (first, others))
                expected = sum(loss[x] for loss in losses)
                torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)


def matched(b, logits, boxes, image):
    labels = image["labels"].numpy()
    cost = reference.matching_cost(logits, boxes, labels, image["boxes"].numpy())
    return reference.hungarian(cost), np.zeros_like(cost), labels
