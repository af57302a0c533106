"""Co-DETR's positive queries against loops, their draws replayed."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ms_detr.modeling import Groups
from ms_detr.modeling.groups import Layout
from ms_detr.structures import Candidates, Queries, Targets
from ms_detr.structures.targets import Step
from ms_detr.supervision import (
    Criterion,
    FocalLoss,
    GIoULoss,
    KnownAssigner,
    KnownObjects,
    L1Loss,
    Losses,
    SupervisionTerm,
    Terms,
)
from ms_detr.variants.co_detr import (
    BoxAndFeatureEncoding,
    BoxEncoding,
    NegativePadding,
    PositiveQueries,
    ZeroPadding,
)

from ..layers.reference import parameters
from ..layers.support import random, randomise
from ..modeling.test_decoder import make as make_decoder
from ..modeling.test_decoder import make_inputs
from ..supervision import reference
from . import slow_positive_queries as slow

DIM = 8
LABELS = ([2, 0, 1], [], [1])
TARGETS = Targets.from_list(
    [
        {
            "labels": torch.tensor(labels, dtype=torch.int64),
            "boxes": random(len(labels), 4, seed=10 + image).sigmoid(),
        }
        for image, labels in enumerate(LABELS)
    ]
)
NOTHING = 3


def make_candidates(objects, seed=0):
    """Candidates that learn these objects of each image; boxes reach out, some have no size."""
    batch, count = len(objects), len(objects[0])
    boxes = 2 * random(batch, count, 4, seed=seed)
    boxes[..., 2:] = boxes[..., 2:].abs()
    boxes[:, 2::5] = 0
    features = random(batch, count, DIM, seed=seed + 1)
    return Candidates(boxes, torch.tensor(objects, dtype=torch.int64).view(batch, count), features)


def draw_objects(rng, candidates, share):
    """Random objects of each image's candidates, `share` of which are background."""
    objects = np.full((len(LABELS), candidates), NOTHING)
    for image, labels in enumerate(LABELS):
        if labels:
            positive = rng.random(candidates) >= share
            objects[image, positive] = rng.integers(0, len(labels), positive.sum())
    return objects.tolist()


def primary_queries(count=5):
    """Queries whose positions come from their boxes, (3, count, DIM)."""

    def position_of(boxes):
        return torch.cat((boxes, boxes.square()), -1)

    boxes = random(len(LABELS), count, 4, seed=3).sigmoid()
    return Queries(random(len(LABELS), count, DIM, seed=4), position_of(boxes), boxes, position_of)


def make_group(encoding=BoxAndFeatureEncoding, **options):
    return randomise(PositiveQueries("atss", encoding(DIM), **options))


def run(group, candidates, targets=TARGETS, seed=7):
    torch.manual_seed(seed)
    primary = primary_queries()
    return group(primary, primary.part(5, 5), targets, {"atss": candidates})


PADDINGS = {
    "negatives": NegativePadding(),
    "zeros": ZeroPadding(),
    "visible zeros": ZeroPadding(hidden=False),
}


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    candidates=st.integers(0, 30),
    share=st.sampled_from([0.1, 0.5, 0.9, 1.0]),
    padding=st.sampled_from(sorted(PADDINGS)),
    cap=st.sampled_from([1, 4, 12, 300]),
    floor=st.sampled_from([1, 9]),
)
def test_equals_the_loop(seed, candidates, share, padding, cap, floor):
    """Which candidates, in which order, what they learn, and what stands for none."""
    objects = draw_objects(np.random.default_rng(seed), candidates, share)
    found = make_candidates(objects, seed)
    options = dict(padding=PADDINGS[padding], max_queries=cap, min_queries=floor)
    made = run(make_group(**options), found, seed=seed)
    torch.manual_seed(seed)
    expected = slow.choose(objects, NOTHING, cap, floor, zeros="zeros" in padding)
    count = len(expected[0])
    own, assignment = made.targets, made.assignment
    assert made.blocks == ((count,) if count else ())
    assert made.queries.count == count and not made.sees_primary
    assert (made.ignored is None) == all(None not in image for image in expected)
    assert (made.hidden is None) == (made.ignored is None or padding == "visible zeros")
    for b, image in enumerate(expected):
        learnt = [NOTHING if i is None else objects[b][i] for i in image]
        for q, (i, g) in enumerate(zip(image, learnt, strict=True)):
            box = [0.0] * 4 if i is None else found.boxes[b, i].tolist()
            assert made.queries.reference[b, q].tolist() == box
            assert bool(own.valid[b, q]) == bool(assignment.valid[0, b, q, 0]) == (g < NOTHING)
            assert assignment.query[0, b, q, 0] == q
            if made.ignored is not None:
                assert bool(made.ignored[b, q]) == (i is None)
            if g < NOTHING:
                assert own.labels[b, q] == LABELS[b][g]
                assert torch.equal(own.boxes[b, q], TARGETS.boxes[b, g])
        assert own.counts[b] == sum(g < NOTHING for g in learnt)
        assert own.valid[b, : own.counts[b]].all()
    assert (
        own.boxes.isfinite().all()
        and (own.boxes[~own.valid] == own.boxes.new_tensor((0.5, 0.5, 1, 1))).all()
    )


@pytest.mark.parametrize("padding", ["negatives", "zeros"])
@pytest.mark.parametrize("scalar", [False, True])
@pytest.mark.parametrize("per_place", [1, 3])
def test_encoding_of_boxes_and_features(padding, scalar, per_place):
    objects = draw_objects(np.random.default_rng(1), 12, 0.6)
    found = make_candidates(objects)
    shared = found.features[:, : 12 // per_place]
    found = dataclasses.replace(found, features=shared, per_place=per_place)
    encoding = randomise(BoxAndFeatureEncoding(DIM, scalar_embedding=scalar))
    made = run(PositiveQueries("atss", encoding, PADDINGS[padding]), found).queries
    torch.manual_seed(7)
    chosen = slow.choose(objects, NOTHING, 300, 9, zeros=padding == "zeros")
    for b, q in np.ndindex(*made.content.shape[:2]):
        i = chosen[b][q]
        box = np.zeros(4) if i is None else found.boxes[b, i].numpy()
        feature = np.zeros(DIM) if i is None else shared[b, i // per_place].numpy()
        position, content = slow.encode_box_and_feature(
            parameters(encoding), box, feature, DIM // 2
        )
        np.testing.assert_allclose(made.position[b, q].detach(), position, atol=1e-12)
        np.testing.assert_allclose(made.content[b, q].detach(), content, atol=1e-12)


def test_encoding_of_boxes():
    """The position is what the primary queries would have at the unclamped box."""
    objects = draw_objects(np.random.default_rng(1), 12, 0.6)
    found = make_candidates(objects)
    group = make_group(BoxEncoding)
    made = run(group, found).queries
    torch.manual_seed(7)
    chosen = slow.choose(objects, NOTHING, 300, 9, zeros=False)
    for b, q in np.ndindex(*made.content.shape[:2]):
        box = found.boxes[b, chosen[b][q]].numpy()
        expected = slow.encode_box(parameters(group.encoding), box, DIM // 2)
        np.testing.assert_allclose(made.content[b, q].detach(), expected, atol=1e-12)
        position = np.concatenate((box, box**2))
        np.testing.assert_allclose(made.position[b, q], position, atol=1e-12)


@pytest.mark.parametrize("encoding", [BoxEncoding, BoxAndFeatureEncoding])
def test_the_last_channel_tells_them_from_denoising_queries(encoding):
    """Where it tells the primary ones, too."""
    found = make_candidates(draw_objects(np.random.default_rng(1), 12, 0.6))
    group, primary = make_group(encoding), primary_queries()
    made = []
    for indicated in (False, True):
        torch.manual_seed(7)
        host = dataclasses.replace(primary, indicated=indicated)
        made.append(group(host, host.part(5, 5), TARGETS, {"atss": found}).queries.content)
    assert torch.equal(made[0][..., :-1], made[1][..., :-1])
    assert (made[0][..., -1] != 0).all() and (made[1][..., -1] == 0).all()


def test_more_positives_than_queries_as_released():
    """Of 400 and 20 positives 300, drawn, and all of them, with negatives behind."""
    few = [0] * 20 + [NOTHING] * 380
    found = make_candidates([[k % 3 for k in range(400)], [NOTHING] * 400, few])
    made = run(make_group(), found)
    assert made.queries.count == 300 and made.targets.counts == (300, 0, 20)
    boxes = [tuple(box) for box in made.queries.reference[0].tolist()]
    assert set(boxes) <= {tuple(box) for box in found.boxes[0].tolist()}
    torch.manual_seed(7)
    assert torch.equal(made.queries.reference[0], found.boxes[0][torch.randperm(400)[:300]])


def test_gradients_reach_features_and_parameters():
    found = make_candidates(draw_objects(np.random.default_rng(1), 12, 0.6))
    found = dataclasses.replace(found, features=found.features.requires_grad_())
    group = make_group()
    made = run(group, found).queries
    (made.content.square().sum() + made.position.square().sum()).backward()
    assert all(parameter.grad is not None for parameter in group.parameters())
    used = found.features.grad.abs().sum(-1) > 0
    assert used.sum(1).tolist() == [made.count] * 3
    assert not made.reference.requires_grad


def test_positions_that_move_take_the_box_alone():
    moving = dataclasses.replace(primary_queries(), position=lambda layer, boxes, content: content)
    found = make_candidates([[0, 3], [3, 3], [0, 3]])
    made = make_group(BoxEncoding)(moving, moving.part(5, 5), TARGETS, {"atss": found})
    assert made.queries.position is moving.position
    with pytest.raises(ValueError, match="positions follow the boxes .* give the group a BoxEnc"):
        make_group()(moving, moving.part(5, 5), TARGETS, {"atss": found})


@pytest.mark.parametrize("options", [dict(max_queries=0), dict(min_queries=0)])
def test_refuses_no_queries(options):
    with pytest.raises(ValueError, match="max_queries and min_queries of at least 1"):
        PositiveQueries("atss", BoxEncoding(DIM), **options)


def test_the_step_is_the_targets():
    step = Step(objects=9, own=9, most=5, images=6)
    found = make_candidates([[0, 3], [3, 3], [0, 3]])
    made = run(make_group(), found, dataclasses.replace(TARGETS, step=step))
    assert made.targets.share == 0.5


# Two images in a decoder; the second has fewer positives than the first.
PAIR = Targets.from_list(
    [
        {"labels": torch.tensor([2, 0]), "boxes": random(2, 4, seed=10).sigmoid()},
        {"labels": torch.tensor([1]), "boxes": random(1, 4, seed=11).sigmoid()},
    ]
)
OBJECTS = [[0, 2, 1, 1, 0, 0, 2, 0, 1, 0, 0, 1], [2, 0, 2, 2, 0, 2, 2, 2, 2, 2, 2, 2]]
COUNTS = (10, 2)


def decode(padding, **more):
    """A decoder's predictions for the group, and what they were made of."""
    primary, memory = make_inputs()
    candidates = {"atss": make_candidates(OBJECTS)}
    made = {"atss": make_group(padding=padding), **more}
    torch.manual_seed(7)
    groups = {n: g(primary, primary.part(5, 5), PAIR, candidates) for n, g in made.items()}
    decoder = make_decoder(sources=["decoder", "atss.decoder"])
    predictions = decoder(primary, memory, True, groups)
    return decoder, memory, groups, predictions


@pytest.mark.parametrize("padding", PADDINGS)
def test_one_pass_equals_a_pass_of_its_own_for_each_image(padding):
    """As if the primary queries, the other image and hidden padding weren't there."""
    decoder, memory, groups, predictions = decode(PADDINGS[padding])
    queries, found = groups["atss"].queries, predictions["atss.decoder"]
    assert queries.count == COUNTS[0]
    for b, count in enumerate(COUNTS if padding == "zeros" else (10, 10)):
        alone = decoder(queries.part(0, count), memory, True)["decoder"]
        for one, other in ((found.logits, alone.logits), (found.boxes, alone.boxes)):
            torch.testing.assert_close(one[:, b, :count], other[:, b])
    assert found.logits.isfinite().all()


def test_the_others_predict_as_without_the_group():
    primary, memory = make_inputs()
    alone = make_decoder(sources=["decoder"])(primary, memory, True)["decoder"]
    for padding in PADDINGS.values():
        few = make_group(padding=ZeroPadding(), max_queries=3, min_queries=1)
        found = decode(padding, few=few)[-1]
        torch.testing.assert_close(found["decoder"].logits, alone.logits)
        torch.testing.assert_close(found["decoder"].boxes, alone.boxes)


def slow_losses(made, predictions, zeros):
    """Focal loss, L1 and GIoU by loops, divided by how many are positive."""
    own, total = made.targets, dict.fromkeys(("class", "bbox", "giou"), 0.0)
    for b, count in enumerate(COUNTS):
        logits, boxes = predictions.logits[-1, b], predictions.boxes[-1, b]
        counted = count if zeros else len(logits)
        labels = [int(own.labels[b, q]) if q < count else None for q in range(counted)]
        pairs = {(q, q) for q in range(count)}
        total["class"] += reference.class_loss(logits[:counted], labels)
        total["bbox"] += reference.l1_loss(boxes, own.boxes[b], pairs)
        total["giou"] += reference.giou_loss(boxes, own.boxes[b], pairs)
    return {name: loss / sum(COUNTS) for name, loss in total.items()}


def make_term(**options):
    losses = {"class": FocalLoss(2.0), "bbox": L1Loss(5.0), "giou": GIoULoss(2.0)}
    return SupervisionTerm(
        "atss.decoder", KnownAssigner(), Losses(**losses), objects=KnownObjects(), **options
    )


@pytest.mark.parametrize("padding", PADDINGS)
def test_losses_equal_the_loop(padding):
    *_, groups, predictions = decode(PADDINGS[padding])
    criterion = Criterion(Terms(atss=make_term(weight=0.5)))
    found = criterion(predictions, PAIR)
    expected = slow_losses(groups["atss"], predictions["atss.decoder"], "zeros" in padding)
    for name, weight in (("class", 2), ("bbox", 5), ("giou", 2)):
        value = 0.5 * weight * expected[name]
        torch.testing.assert_close(found[f"atss/loss_{name}/2"], value)
    assert found.counts == dict.fromkeys(found, sum(COUNTS))


def test_negatives_alone_learn_the_background():
    """No positive in the whole batch: nine negatives an image, divided by one."""
    primary, memory = make_inputs()
    candidates = {"atss": make_candidates([[2] * 12, [2] * 12])}
    made = make_group()(primary, primary.part(5, 5), PAIR, candidates)
    assert made.queries.count == 9 and made.targets.counts == (0, 0)
    predictions = make_decoder(sources=["decoder", "atss.decoder"])(
        primary, memory, True, {"atss": made}
    )
    found = Criterion(Terms(atss=make_term()))(predictions, PAIR)
    logits = predictions["atss.decoder"].logits[0]
    expected = sum(reference.class_loss(x, [None] * 9) for x in logits)
    torch.testing.assert_close(found["atss/loss_class/0"], 2 * expected)
    assert found.counts == dict.fromkeys(found, 0)
    assert found["atss/loss_bbox/0"] == found["atss/loss_giou/0"] == 0


def test_who_sees_whom():
    """Hidden padding is seen by itself, whichever groups are beside it."""
    primary = primary_queries()
    torch.manual_seed(7)
    found = {"atss": make_candidates([[0] * 11 + [3], [3] * 12, [0] + [3] * 11])}
    groups = {
        name: make_group(padding=padding)(primary, primary.part(5, 5), TARGETS, found)
        for name, padding in (("a", ZeroPadding()), ("b", NegativePadding()))
    }
    queries, visibility = Layout(primary, groups).join()
    assert queries.count == 5 + 11 + 11
    assert visibility.hidden.sum(1).tolist() == [0, 11, 10]
    assert visibility.hidden[2].nonzero().flatten().tolist() == list(range(6, 16))


def test_a_group_without_queries_trains_with_none():
    """A head without candidates."""
    primary, memory = make_inputs()
    groups = Groups(atss=make_group())
    candidates = {"atss": make_candidates([[], []])}
    _, made = groups(primary, 5, PAIR, candidates)
    assert made["atss"].queries.count == 0
    predictions = make_decoder(sources=["decoder", "atss.decoder"])(primary, memory, True, made)
    losses = Criterion(Terms(atss=make_term()))(predictions, PAIR)
    sum(losses.values()).backward()
    assert all(loss == 0 for loss in losses.values())
    assert all(parameter.grad is not None for parameter in groups.parameters())
