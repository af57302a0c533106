"""Losses, candidates and detections of the one-stage heads against plain loops in float64."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from ms_detr.auxiliary import ATSSHead, DenseHead, FCOSHead, RetinaNetHead
from ms_detr.engine.fine_tune import rows_of
from ms_detr.errors import ConfigError
from ms_detr.structures import Rows, Step

from ..supervision.test_host_waits import Watch
from . import dense_reference as reference
from .scenes import make_objects, make_pyramid, make_targets, objects_of

STRIDES = (8, 16, 32)
SIZES = [(50, 40), (33, 56), (56, 48)]
CHANNELS = 32


def atss(found, inside, boxes):
    return reference.atss(found, inside, boxes)[0], [False] * len(found)


def fcos(found, inside, boxes):
    return reference.fcos(found, inside, boxes, STRIDES), [False] * len(found)


@dataclass(frozen=True)
class Case:
    """A head and what the reference knows of it."""

    make: Callable[..., DenseHead]
    anchors: tuple
    rule: Callable
    decode: Callable

    def anchors_of(self, pyramid):
        shapes = [level.shape[-2:] for level in pyramid.maps]
        return reference.anchors(shapes, pyramid.strides, *self.anchors)

    def assign(self, pyramid, targets):
        """Anchors; their owners and which are ignored, of every image."""
        found = self.anchors_of(pyramid)
        owners, ignored = [], []
        images = objects_of(pyramid, targets)
        for size, (_, boxes) in zip(pyramid.sizes.tolist(), images, strict=True):
            inside = [reference.is_inside(anchor, pyramid.strides, size) for anchor in found]
            own, between = self.rule(found, inside, boxes)
            owners.append(own)
            ignored.append([x or not there for x, there in zip(between, inside, strict=True)])
        return found, (owners, ignored)


CASES = {
    "atss": Case(
        ATSSHead,
        ((8.0,),),
        atss,
        lambda deltas, anchor: reference.from_deltas(deltas, anchor[3], (10, 5)),
    ),
    "retinanet": Case(
        RetinaNetHead,
        ((4.0, 4 * 2 ** (1 / 3), 4 * 2 ** (2 / 3)), (0.5, 1.0, 2.0)),
        reference.retinanet,
        lambda deltas, anchor: reference.from_deltas(deltas, anchor[3], (1, 1)),
    ),
    "fcos": Case(
        FCOSHead,
        ((8.0,), (1.0,), 0.5),
        fcos,
        lambda x, anchor: reference.from_distances(x, anchor[3], STRIDES[anchor[0]]),
    ),
}


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def build(make, num_levels=(2, 1), dtype=torch.float64, **options):
    torch.manual_seed(0)
    head = make(CHANNELS, 3, num_levels, **options).to(dtype)
    with torch.no_grad():  # outputs far from 0
        for name, parameter in head.named_parameters():
            if "conv" in name and parameter.ndim == 4:
                parameter.normal_(std=0.05)
            elif "scales" in name:
                parameter.uniform_(0.5, 1.5)
    return head


def scene(counts, seed=0):
    """Images of which each that has objects has one, at least, that every head assigns."""
    rng = np.random.default_rng(seed)
    sizes = SIZES[: len(counts)]
    boxes = [make_objects(rng, size, n) for size, n in zip(sizes, counts, strict=True)]
    for own, (width, height) in zip(boxes, sizes, strict=True):
        own[-1:] = width / 2, height / 2, 41, 34
        own[:-3] = width / 3, height / 2, 25, 36  # more than one of an anchor's choice
    return make_pyramid(rng, sizes, STRIDES, CHANNELS), make_targets(rng, sizes, boxes)


@pytest.mark.parametrize("counts", [(4, 0, 2), (0, 0), (5,)], ids=str)
def test_losses(case, counts):
    weights = (0.5, 3.0, 2.0)
    options = dict(class_weight=0.5, box_weight=3.0)
    if build(case.make).centerness_conv is not None:
        options["centerness_weight"] = 2.0
    head = build(case.make, weight=7.0, **options)
    pyramid, targets = scene(counts)
    found, (owners, ignored) = case.assign(pyramid, targets)
    found_losses = head("some", pyramid, targets).losses
    outputs = head.outputs(pyramid)
    given = (outputs.logits, outputs.deltas, outputs.centerness)
    images = objects_of(pyramid, targets)
    expected = reference.losses(given, case.decode, found, owners, ignored, images, weights)
    assert found_losses.keys() == {f"some_head/loss_{name}" for name in expected}
    for name, value in expected.items():
        assert found_losses[f"some_head/loss_{name}"].item() == pytest.approx(
            7 * value.item(), rel=1e-10, abs=1e-12
        )
    assert all(any(x >= 0 for x in own) for own, n in zip(owners, counts, strict=True) if n)
    positive = sum(max(1, sum(x >= 0 for x in own)) for own in owners)
    divisors = dict.fromkeys(expected, positive)
    if "centerness" in expected:
        divisors["giou"] = sum(
            reference.centerness(anchor[3], objects[owner])
            for own, (_, objects) in zip(owners, images, strict=True)
            for anchor, owner in zip(found, own, strict=True)
            if owner >= 0
        )
    counted = {name: count.item() for name, count in found_losses.counts.items()}
    assert counted == pytest.approx(
        {f"some_head/loss_{name}": count for name, count in divisors.items()}
    )
    gradients = torch.autograd.grad(sum(found_losses.values()), pyramid.maps)
    wanted = torch.autograd.grad(7 * sum(expected.values()), pyramid.maps)
    for gradient, other in zip(gradients, wanted, strict=True):
        assert gradient.any()
        torch.testing.assert_close(gradient, other, rtol=1e-9, atol=1e-12)


def test_parts_of_a_step_add_up_by_their_share():
    head = build(ATSSHead)
    pyramid, targets = scene((3, 2))
    part = replace(targets, step=Step(objects=9, own=9, most=3, images=8))
    whole, quarter = (head("a", pyramid, x).losses for x in (targets, part))
    for name, value in whole.items():
        assert quarter[name].item() == pytest.approx(value.item() / 4)


def test_candidates(case):
    head = build(case.make)
    pyramid, targets = scene((4, 3, 0))
    found, (owners, _) = case.assign(pyramid, targets)
    candidates = head("some", pyramid, targets).candidates
    assert not candidates.boxes.requires_grad and candidates.features.requires_grad
    background = targets.valid.shape[1]
    outside = 0
    for b, (width, height) in enumerate(SIZES):
        for i, (level, x, y, box) in enumerate(found):
            torch.testing.assert_close(
                candidates.features[b, i // candidates.per_place],
                pyramid.maps[level][b, :, y, x],
                rtol=0,
                atol=0,
            )
            inside = reference.is_inside(found[i], STRIDES, (width, height))
            outside += not inside
            expected = np.array(box) / (width, height, width, height) * inside
            assert candidates.boxes[b, i].tolist() == pytest.approx(expected, rel=1e-6)
            owner = owners[b][i]
            assert candidates.objects[b, i] == (background if owner < 0 else owner)
    assert outside > 10


def test_outputs_are_the_convolutions(case):
    """The order of places and of the anchors of one."""
    head = build(case.make)
    pyramid, _ = scene((1, 1))
    outputs, per_place = head.outputs(pyramid), head.grid.per_place
    first = 0
    for number, level in enumerate(pyramid.maps):
        height, width = level.shape[-2:]
        boxes = head.box_conv(head.box_tower(level))
        scale = head.scales[number] if len(head.scales) else 1.0
        for y in range(height):
            for x in range(width):
                for a in range(per_place):
                    i = first + (y * width + x) * per_place + a
                    mine = scale * boxes[:, 4 * a : 4 * a + 4, y, x]
                    torch.testing.assert_close(outputs.deltas[:, i], mine)
        for a, conv in enumerate(head.class_convs):
            logits = conv(head.class_tower(level)).flatten(2).transpose(1, 2)
            own = outputs.logits[:, first + a : first + height * width * per_place : per_place]
            torch.testing.assert_close(own, logits)
        first += height * width * per_place
    assert outputs.logits.shape[1] == first


def test_nothing_waits_for_values(case):
    head = build(case.make)
    pyramid, targets = scene((4, 0, 3))
    with Watch() as watch:
        sum(head("some", pyramid, targets).losses.values()).backward()
    assert watch.found() == {}


def test_one_cell_one_class_and_autocast(case):
    head = case.make(64, 1, (3,))
    rng = np.random.default_rng(0)
    maps = make_pyramid(rng, [(5, 4)], STRIDES, 64, torch.float32)
    targets = make_targets(rng, [(5, 4)], [np.array([[2.0, 2, 3, 3]])], 1, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = head("some", maps, targets)
    assert all(x.dtype == torch.float32 and x.isfinite() for x in found.losses.values())
    sum(found.losses.values()).backward()
    assert all(x.grad is not None and x.grad.isfinite().all() for x in head.parameters())
    (detections,) = head.eval().detect(maps)
    assert detections.boxes.isfinite().all() and len(detections.scores[0])


def test_atss_starts_as_published():
    with torch.device("meta"):
        for levels, count in ((4, 1_376_602), (5, 1_376_603)):
            head = ATSSHead(256, 80, (levels, 1))
            assert sum(p.numel() for p in head.parameters() if p.requires_grad) == count
    head = ATSSHead(64, 80, (4, 1))
    assert head.weight == 12
    assert (head.losses.class_weight, head.losses.box_weight) == (1, 2)
    assert head.losses.centerness_weight == 1
    for module in head.modules():
        if isinstance(module, torch.nn.Conv2d):
            assert module.weight.std().item() == pytest.approx(0.01, rel=0.1)
    (conv,) = head.class_convs
    assert torch.equal(conv.bias, torch.full((80,), -math.log(99)))
    assert not head.box_conv.bias.any() and not head.centerness_conv.bias.any()
    assert [scale.item() for scale in head.scales] == [1] * 5


def test_another_number_of_levels_is_told():
    pyramid, targets = scene((1,))
    with pytest.raises(ConfigError, match="built for 5 levels, encoder and adapter make 3"):
        build(ATSSHead, (4, 1))("atss", pyramid, targets)


@pytest.mark.parametrize("name", ["retinanet", "fcos"])
def test_crowded_pyramids(name):
    case, positives, between = CASES[name], 0, 0
    head = case.make(CHANNELS, 3, (3,))
    for seed in range(8):
        rng = np.random.default_rng(seed)
        sizes = rng.integers(6, 80, (2, 2))
        pairs = zip(sizes, (20, 5), strict=True)
        boxes = [make_objects(rng, size, n, seed % 3 == 0) for size, n in pairs]
        pyramid, targets = make_pyramid(rng, sizes, STRIDES), make_targets(rng, sizes, boxes)
        _, (owners, ignored) = case.assign(pyramid, targets)
        anchors = head.grid(pyramid)
        found = head.assigner(pyramid, anchors, targets.boxes * pyramid.scale, targets)
        owners = torch.tensor(owners)
        positives += int((owners >= 0).sum())
        assert torch.equal(found.objects, owners.where(owners >= 0, 20)), seed
        assert torch.equal(found.ignored, torch.tensor(ignored)), seed
        between += int((found.ignored & anchors.inside).sum())
    assert positives > 30 and (between > 30) == (name == "retinanet")


def test_retinanet_starts_as_published():
    """Nine rows of each class, which a fine-tuning to other classes finds."""
    head = RetinaNetHead(64, 5, (3,))
    assert len(head.class_convs) == 9 and head.centerness_conv is None and not len(head.scales)
    assert sum(p.numel() for p in head.class_convs.parameters()) == 9 * 5 * (64 * 9 + 1)
    assert sum(kind is Rows.CLASSES for kind in rows_of(head).values()) == 18
    for conv in head.class_convs:
        assert torch.equal(conv.bias, torch.full((5,), -math.log(99)))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: ATSSHead(32, 3, (2,), top_k=0), "at least 1 candidate of a level, got top_k=0"),
        (lambda: ATSSHead(32, 3, (2,), weight=-1), "weight can't be negative, got -1"),
        (lambda: ATSSHead(32, 3, (2,), box_weight=-1), "box_weight can't be negative, got -1"),
        (lambda: RetinaNetHead(32, 3, (2,), negative=0.6), "got positive=0.5, negative=0.6"),
        (lambda: FCOSHead(32, 3, (2,), radius=0), "got radius=0"),
    ],
)
def test_wrong_settings(make, match):
    with pytest.raises(ConfigError, match=match):
        make()
