"""DETR's classes: softmax with nothing as one more, from the head to the detections."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st

from ms_detr.config import load
from ms_detr.modeling import BoxHead, TwoStageInitializer
from ms_detr.recipes import deformable_detr, detr, group, ms_detr
from ms_detr.structures import Assignment, Predictions, PredictionSet
from ms_detr.supervision import (
    Criterion,
    HungarianAssigner,
    L1Loss,
    Losses,
    ObjectCount,
    SupervisionTerm,
    Terms,
)
from ms_detr.supervision.losses import match
from ms_detr.supervision.one_to_many import match_score
from ms_detr.variants import DINOInitializer
from ms_detr.variants.detr import (
    OneClassPostprocess,
    ProbabilityCost,
    SoftmaxHead,
    SoftmaxLoss,
)
from ms_detr.variants.iou_aware import IABCELoss, VariFocalLoss

from ..layers.reference import giou, iou
from ..layers.support import make_memory, randomise
from ..modeling.support import ROOT, SMALLER, make_batch, make_model, rooted, trained_parameters
from ..modeling.test_decoder import PADDINGS
from ..supervision import reference
from ..supervision.support import make_images, make_predictions, make_targets, pairs
from ..supervision.test_groups import assign

MATCHING = HungarianAssigner(class_distance=ProbabilityCost())

CONFIG = "detr/detr_r50_100q_50ep.py"
LAYERS, QUERIES, CLASSES, DIM = 2, 7, 3, 8


def make_scene(seed=0, counts=(3, 0, 1)):
    """Images, raw logits (L, B, Q, K + 1) as DETR's head makes them, and predictions of them."""
    rng = np.random.default_rng(seed)
    images = make_images(rng, counts, CLASSES)
    boxes = make_predictions(rng, images, QUERIES, CLASSES, LAYERS).boxes
    raw = torch.from_numpy(rng.normal(0, 2, (LAYERS, len(counts), QUERIES, CLASSES + 1)))
    return images, raw.requires_grad_(), predict(raw, boxes)


def predict(raw, boxes):
    """What :class:`SoftmaxHead` makes of raw logits."""
    head = SoftmaxHead(CLASSES + 1, CLASSES).double()
    with torch.no_grad():
        head.weight.copy_(torch.eye(CLASSES + 1))
        head.bias.zero_()
    return PredictionSet(head(raw), boxes, probability=head.probability)


def softmax(logits):
    """Probabilities of one query, nothing last."""
    exponentials = [math.exp(x) for x in logits]
    return [x / sum(exponentials) for x in exponentials]


def test_the_head_predicts_the_classes_of_a_softmax():
    _, raw, made = make_scene()
    assert made.logits.shape == (LAYERS, 3, QUERIES, CLASSES)
    found = made.probability(made.logits)
    for place in np.ndindex(LAYERS, 3, QUERIES):
        expected = softmax(raw[place].tolist())[:CLASSES]
        np.testing.assert_allclose(found[place].detach(), expected, atol=1e-12)
    torch.manual_seed(0)
    head = SoftmaxHead(256, CLASSES)
    bound = 1 / 16  # of an ordinary linear layer: nothing is rare by nature
    assert head.weight.shape == (CLASSES + 1, 256) and head.num_classes == CLASSES
    assert head.bias.abs().max() <= bound and head.bias.unique().numel() == CLASSES + 1


def cost_of(images, raw, made, layer, b):
    """Matching costs (G, Q) of DETR with weights 1, 5, 2."""
    labels, objects = images[b]["labels"].tolist(), images[b]["boxes"].numpy()
    out = np.zeros((len(labels), QUERIES))
    for g, q in np.ndindex(*out.shape):
        box = made.boxes[layer, b, q].numpy()
        out[g, q] = -softmax(raw[layer, b, q].tolist())[labels[g]]
        out[g, q] += 5 * np.abs(box - objects[g]).sum() - 2 * giou(box, objects[g])
    return out


def layer_loss(images, raw, layer, found):
    """Weighted mean of the cross entropy over all queries; `found` are pairs by image."""
    total, weights = torch.zeros((), dtype=torch.float64), 0.0
    for b, image in enumerate(images):
        classes = {q: int(image["labels"][g]) for q, g in found[b]}
        for q in range(QUERIES):
            weight = 1.0 if q in classes else 0.1
            own = raw[layer, b, q]
            total = total - weight * (own[classes.get(q, CLASSES)] - own.exp().sum().log())
            weights += weight
    return total / weights


@pytest.mark.parametrize("counts", [(3, 0, 1), (0, 0), (9,)])
def test_matching_losses_and_gradients_of_the_config_equal_the_loops(counts):
    images, raw, made = make_scene(len(counts), counts)
    term = instantiate(load(ROOT / "configs" / CONFIG).model.criterion.terms.o2o)
    targets = make_targets(images)
    found = Criterion(Terms(o2o=term))(Predictions({"decoder": made}), targets)
    assignment = Criterion(Terms(o2o=term)).assign(Predictions({"decoder": made}), targets)["o2o"]
    for layer in range(LAYERS):
        matched = []
        for b in range(len(counts)):
            matched.append(reference.hungarian(cost_of(images, raw, made, layer, b)))
            assert pairs(assignment, layer, b) == matched[b]
        expected = layer_loss(images, raw, layer, matched)
        loss = found[f"o2o/loss_class/{layer}"]
        torch.testing.assert_close(loss, expected)
        (gradient,) = torch.autograd.grad(loss, raw, retain_graph=True)
        torch.testing.assert_close(gradient, torch.autograd.grad(expected, raw)[0])
        l1 = sum(
            reference.l1_loss(made.boxes[layer, b], image["boxes"], matched[b])
            for b, image in enumerate(images)
        )
        torch.testing.assert_close(
            found[f"o2o/loss_bbox/{layer}"], 5 * l1 / max(1, sum(counts)), check_dtype=False
        )


def test_a_loss_may_divide_by_what_it_likes():
    """Box losses by the objects, the cross entropy by the weights of its queries."""
    images, _, made = make_scene()
    targets = make_targets(images)
    losses = Losses(**{"class": SoftmaxLoss(2.0)}, bbox=L1Loss(1.0))
    term = SupervisionTerm("decoder", MATCHING, losses)
    assignment = assign(term.assigner, made, targets)
    few, many = (
        term.compute(made, targets, assignment, ObjectCount(torch.tensor(n))) for n in (1.0, 4.0)
    )
    for name, loss in few.items():
        torch.testing.assert_close(many[name], loss / (4 if "bbox" in name else 1))
    local = ObjectCount(torch.tensor(1.0), local=torch.tensor(0.0))
    counts = term.compute(made, targets, assignment, local).counts
    assert few.counts == {} and counts == {f"loss_bbox/{i}": 0.0 for i in range(LAYERS)}


def test_gradcheck():
    images, _, made = make_scene(1)
    targets = make_targets(images)
    assignment = assign(MATCHING, made, targets)

    def of_logits(logits):
        return SoftmaxLoss(1.0)(match(replace(made, logits=logits), targets, assignment))

    assert torch.autograd.gradcheck(of_logits, made.logits.detach().requires_grad_())


@given(shift=st.floats(-5, 5), seed=st.integers(0, 100))
@settings(max_examples=20)
def test_only_differences_of_logits_count(shift, seed):
    _, raw, made = make_scene(seed)
    torch.testing.assert_close(predict(raw + shift, made.boxes).logits, made.logits)


@pytest.mark.parametrize("loss", [VariFocalLoss, IABCELoss])
def test_logits_read_as_what_they_are_not_are_an_error(loss):
    cfg = load(ROOT / "configs/demo/family/ms_detr_detr.py", SMALLER)
    cfg.model.criterion.terms.o2o.losses["class"] = L(loss)(weight=1.0)
    message = f"{loss.__name__} takes class logits through sigmoid, the"
    with pytest.raises(ValueError, match=message):
        instantiate(cfg.model)(make_batch())


def test_costs_that_read_logits_as_what_they_are_not_are_an_error():
    images, _, made = make_scene()
    with pytest.raises(ValueError, match="the focal cost takes class logits through sigmoid, the"):
        assign(HungarianAssigner(), made, make_targets(images))


@pytest.mark.parametrize("value", [-1e4, 60.0, 1e4])
def test_sure_predictions_are_finite(value):
    """What stands for nothing costs nothing, as with the focal loss."""
    images, _, made = make_scene(2, counts=(0,))
    targets = make_targets(images)
    logits = torch.full_like(made.logits[:, :1], value, dtype=torch.float32).requires_grad_()
    sure = PredictionSet(logits, made.boxes[:, :1].float(), probability=made.probability)
    matches = match(sure, targets, assign(MATCHING, sure, targets))
    loss = SoftmaxLoss(1.0)(matches)
    loss.sum().backward()
    assert loss.isfinite().all() and logits.grad.isfinite().all()
    assert (loss == 0).all() == (logits.grad == 0).all() == (value < 0)
    assert sure.probability(logits).isfinite().all()


def test_without_queries_the_mean_is_nothing():
    empty = PredictionSet(torch.zeros(2, 1, 0, 3), torch.zeros(2, 1, 0, 4))
    targets = make_targets(make_images(np.random.default_rng(0), (0,)))
    none = torch.zeros(2, 1, 0, 1)
    matches = match(empty, targets, Assignment(none.long(), none.bool(), targets.labels))
    loss = SoftmaxLoss(1.0)
    assert (loss(matches) / loss.divisor(matches, torch.ones(()))).tolist() == [0, 0]


def test_one_to_many_scores_take_the_probability():
    images, raw, made = make_scene()
    score = match_score(made, make_targets(images), alpha=0.3)
    for layer, q in np.ndindex(LAYERS, QUERIES):
        for g, (label, box) in enumerate(zip(*images[0].values(), strict=True)):
            own = softmax(raw[layer, 0, q].tolist())[label]
            overlap = iou(made.boxes[layer, 0, q].numpy(), box.numpy())
            assert score[layer, 0, g, q].item() == pytest.approx(0.3 * own + 0.7 * overlap)


@pytest.mark.parametrize("top_k", [3, 100])
def test_every_query_is_one_detection(top_k):
    _, raw, made = make_scene()
    found = OneClassPostprocess(top_k)(made)
    for b in range(3):
        each = []
        for q in range(QUERIES):
            classes = softmax(raw[-1, b, q].tolist())[:CLASSES]
            each.append((max(classes), classes.index(max(classes)), q))
        expected = sorted(each, reverse=True)[:top_k]
        scores, labels, queries = zip(*expected, strict=True)
        np.testing.assert_allclose(found.scores[b].detach(), scores, atol=1e-12)
        assert found.labels[b].tolist() == list(labels)
        assert found.queries[b].tolist() == list(queries)


def test_every_source_says_what_its_logits_mean():
    """The decoder's, its taps', and those of proposals."""
    head = SoftmaxHead(DIM, CLASSES)
    for kind in (TwoStageInitializer, DINOInitializer):
        initializer = randomise(kind(5, DIM, head, BoxHead(DIM)))
        _, made = initializer(make_memory(PADDINGS, DIM), supervised=True)
        assert made["encoder"].probability is SoftmaxHead.probability
    model = make_model(*SMALLER, config="configs/ms_detr/ms_detr_detr_r50_100q_50ep.py")
    batch = make_batch()
    targets = model.targets(batch, (80, 96))
    with torch.no_grad():
        made = model.forward_tensors(*model.preprocess(batch), targets)
    assert set(map(str, made)) == {"decoder", "decoder.cross_attention"}
    for predictions in made.values():
        assert predictions.probability is SoftmaxHead.probability


def test_a_group_is_matched_and_learnt_as_the_primary_queries():
    terms = rooted(group(ms_detr(detr(deformable_detr())), num_groups=3)).criterion.terms
    assert instantiate(terms.group.assigner).class_cost == 1.0
    for name in ("o2o", "group"):
        assert isinstance(instantiate(terms[name].assigner).class_distance, ProbabilityCost)
        loss = instantiate(terms[name].losses["class"])
        assert isinstance(loss, SoftmaxLoss)
        assert (loss.weight, loss.background) == (1.0, 0.1)


def test_parameter_count():
    """Backbone without stem and res2, projection, both transformers, queries, heads, norm."""
    linear, norm, mlp = 257 * 256, 2 * 256, 2 * 2048 * 256 + 2048 + 256
    expected = 23_232_512 + 2049 * 256
    expected += 6 * (4 * linear + mlp + 2 * norm) + 6 * (8 * linear + mlp + 3 * norm) + norm
    expected += 100 * 256 + 92 * 257 + 2 * linear + 4 * 257
    assert trained_parameters(CONFIG) == expected
