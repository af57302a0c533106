"""Align-DETR: mixed matching and what it weighs, against loops."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st

from ms_detr.config import load
from ms_detr.recipes import align, deformable_detr, group_two_stage
from ms_detr.structures import Assignment, Predictions
from ms_detr.supervision import Criterion, HungarianAssigner, Terms
from ms_detr.supervision.losses import match
from ms_detr.variants.align import MixedHungarianAssigner

from ..modeling.support import ROOT, rooted, trained_parameters
from ..supervision import reference
from ..supervision.support import make_images, make_predictions, make_targets, pairs
from ..supervision.test_groups import assign, cost_of, repeated
from .test_iou_aware import ia_bce, qualities

CONFIG = "align_detr/align_detr_r50_4scale_12ep.py"
TAU = 1.5


def terms_of(config=CONFIG):
    return load(ROOT / "configs" / config).model.criterion.terms


def count(objects, queries, k):
    """Queries an object: at most k, and together no more than half of all, but at least one."""
    while k > 1 and k * objects > 0.5 * queries:
        k -= 1
    return k


@settings(max_examples=40)
@given(
    counts=st.lists(st.integers(0, 5), min_size=1, max_size=3),
    queries=st.integers(0, 24),
    ks=st.sampled_from([(2, 1), (3, 1), (4, 2), (2, 2)]),
    seed=st.integers(0, 100),
)
def test_mixed_matching_equals_the_loop(counts, queries, ks, seed):
    rng = np.random.default_rng(seed)
    images = make_images(rng, counts)
    predictions = make_predictions(rng, images, queries, layers=3)
    found = assign(MixedHungarianAssigner(*ks), predictions, make_targets(images))
    assert found.copies == 1
    for layer, k in enumerate((ks[0], ks[0], ks[1])):
        for b, objects in enumerate(counts):
            cost = cost_of(predictions, images, layer, b)
            expected = repeated(cost, count(objects, queries, k)) if queries else set()
            assert pairs(found, layer, b) == expected


def test_one_of_each_is_ordinary_matching():
    rng = np.random.default_rng(0)
    images = make_images(rng, (3, 0, 2))
    predictions, targets = make_predictions(rng, images, 9), make_targets(images)
    expected = assign(HungarianAssigner(), predictions, targets)
    found = assign(MixedHungarianAssigner(k=1), predictions, targets)
    assert torch.equal(found.query, expected.query)
    assert torch.equal(found.valid, expected.valid)


@pytest.mark.parametrize("ks", [(1, 2), (2, 0), (0, 0)])
def test_refuses_counts_that_do_not_fall(ks):
    with pytest.raises(ValueError, match=f"k >= last_k >= 1.* got {ks[0]} and {ks[1]}"):
        MixedHungarianAssigner(*ks)


def layer_losses(predictions, images, layer, assignment, num_objects):
    """{name: loss} of one layer: targets and distances fall by rank, the normaliser does not."""
    made = predictions.logits[layer], predictions.boxes[layer]
    out = {name: torch.zeros((), dtype=torch.float64) for name in ("class", "bbox", "giou")}
    for b, image in enumerate(images):
        held = qualities(predictions, image, assignment, layer, b)
        labels = {q: (int(image["labels"][g]), pair) for (q, g), pair in held.items()}
        for q, logits in enumerate(made[0][b]):
            for c, logit in enumerate(logits):
                own = q in labels and labels[q][0] == c
                out["class"] = out["class"] + ia_bce(logit, labels[q][1] if own else None)
        for pair, (_, _, rank) in held.items():
            factor = math.exp(-rank / TAU)
            inputs = made[1][b], image["boxes"], [pair]
            out["bbox"] = out["bbox"] + factor * reference.l1_loss(*inputs)
            out["giou"] = out["giou"] + factor * reference.giou_loss(*inputs)
    weights = {"class": 1.0, "bbox": 5.0, "giou": 2.0}
    return {name: weights[name] * loss / num_objects for name, loss in out.items()}


@pytest.mark.parametrize(("name", "layers", "k"), [("o2o", 3, (2, 2, 1)), ("encoder", 1, (2,))])
def test_losses_and_gradients_of_the_config_equal_the_loop(name, layers, k):
    rng = np.random.default_rng(7)
    images = make_images(rng, (3, 0, 1))
    made = make_predictions(rng, images, 20, layers=layers, layered=name == "o2o")
    inputs = made.logits.requires_grad_(), made.boxes.requires_grad_()
    term = instantiate(terms_of()[name])
    targets = make_targets(images)
    assignment = assign(term.assigner, made, targets)
    assert [len(pairs(assignment, layer, 0)) for layer in range(layers)] == [3 * x for x in k]
    found = Criterion(Terms(x=term))(Predictions({term.source: made}), targets)
    for layer in range(layers):
        ending = f"/{layer}" if made.layered else ""
        losses = layer_losses(made, images, layer, assignment, num_objects=4)
        for loss, value in losses.items():
            torch.testing.assert_close(found[f"x/loss_{loss}{ending}"], value)
        total = sum(found[f"x/loss_{loss}{ending}"] for loss in losses)
        gradients = torch.autograd.grad(total, inputs, retain_graph=True)
        expected = torch.autograd.grad(sum(losses.values()), inputs)
        for gradient, other in zip(gradients, expected, strict=True):
            torch.testing.assert_close(gradient, other)


def test_of_equal_queries_the_lower_is_the_better():
    """Boxes far from their objects, as at the start of a training: every quality is the least."""
    rng = np.random.default_rng(7)
    images = make_images(rng, (3, 0, 4))
    made = make_predictions(rng, images, 20, layers=2)
    made.boxes[..., :2] = 0.01 * torch.rand((*made.boxes.shape[:-1], 2), dtype=torch.float64)
    made.boxes[..., 2:] = 0.01
    term, targets = instantiate(terms_of().o2o), make_targets(images)
    assignment = assign(term.assigner, made, targets)
    bags = assignment.query[0][assignment.valid[0].all(-1)]
    assert len(bags) == 7
    assert (bags[:, 0] > bags[:, 1]).any() and (bags[:, 0] < bags[:, 1]).any()
    for pair, (_, quality, rank) in qualities(made, images[0], assignment, 0, 0).items():
        others = [q for q, g in pairs(assignment, 0, 0) if g == pair[1]]
        assert (quality, rank) == (0.01, sorted(others).index(pair[0]))
    found = Criterion(Terms(x=term))(Predictions({term.source: made}), targets)
    for layer in range(2):
        for loss, value in layer_losses(made, images, layer, assignment, num_objects=7).items():
            torch.testing.assert_close(found[f"x/loss_{loss}/{layer}"], value)


def rank_weights(term, predictions, targets, assignment):
    """Of the pairs of a term: by its class loss and by its box losses."""
    matches = match(predictions, targets, assignment)
    weights = term.losses["class"].rank_weight, term.losses["bbox"].pair_weight
    return [weight(matches) for weight in weights if weight is not None]


def test_the_copies_of_denoising_have_no_rank():
    """DN positives learn the blend itself, whichever other copy of the object fits better."""
    rng = np.random.default_rng(3)
    images = make_images(rng, (2, 1))
    targets = make_targets(images)
    known = Assignment(
        torch.tensor([[[[0, 4], [1, 5]], [[2, 6], [0, 0]]]]),
        torch.tensor([[[[True, True], [True, True]], [[True, True], [False, False]]]]),
        targets.labels,
        copies=2,
    )
    term, predictions = instantiate(terms_of().denoising), make_predictions(rng, images, 8)
    found = term.assigner.assign(dataclasses.replace(predictions, assignment=known), targets, None)
    (weights,) = rank_weights(term, predictions, targets, found)
    assert (weights == 1).all()


@pytest.mark.parametrize(("name", "k"), [("group", 1), ("group_encoder", 2)])
def test_ranks_are_those_of_a_group(name, k):
    """Every group is matched and ranked as if it were alone."""
    terms = rooted(group_two_stage(align(deformable_detr()), num_groups=4)).criterion.terms
    rng = np.random.default_rng(3)
    images = make_images(rng, (2, 1))
    predictions = make_predictions(rng, images, 24, layers=1)
    blocks = dataclasses.replace(predictions, blocks=(8, 8, 8))
    targets, term = make_targets(images), instantiate(terms[name])
    together = assign(term.assigner, blocks, targets)
    assert together.copies == 3
    found = rank_weights(term, blocks, targets, together)
    for block in range(3):
        span = slice(8 * block, 8 * block + 8)
        alone = dataclasses.replace(
            predictions, logits=predictions.logits[:, :, span], boxes=predictions.boxes[:, :, span]
        )
        by_itself = assign(term.assigner, alone, targets)
        assert by_itself.valid[0, 0].sum(-1).tolist() == [k, k]
        slots = slice(2 * block, 2 * block + 2)
        shifted = by_itself.query + span.start * by_itself.valid
        assert torch.equal(together.query[..., slots], shifted)
        expected = rank_weights(term, alone, targets, by_itself)
        for weights, other in zip(found, expected, strict=True):
            torch.testing.assert_close(weights[..., slots], other)


@pytest.mark.parametrize("config", [CONFIG, "ms_detr/ms_detr_align_r50_4scale_12ep.py"])
def test_terms_are_as_published(config):
    terms = terms_of(config)
    for term, ks in ((terms.o2o, (2, 1)), (terms.encoder, (2, 2))):
        assert (term.assigner.k, term.assigner.last_k) == ks
        assert [term.assigner[f"{x}_cost"] for x in ("class", "l1", "giou")] == [2, 5, 2]
        assert [term.losses[x].weight for x in ("class", "bbox", "giou")] == [1, 5, 2]
        assert not term.assigner.get("class_agnostic", False)
    model = load(ROOT / "configs" / config).model
    assert (model.num_queries, model.groups.denoising.box_noise) == (900, 1.0)


def test_parameter_count():
    """DINO of 80 classes as detrex has it, and a row of the label embedding more."""
    published = 47_427_916 + 256
    eleven_classes = 11 * (7 * 257 + 256)
    assert trained_parameters(CONFIG) == published + eleven_classes
