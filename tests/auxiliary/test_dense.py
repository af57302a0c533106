"""Losses, candidates and detections of the one-stage heads against plain loops in float64."""

import functools
import math
import multiprocessing
from dataclasses import replace

import numpy as np
import pytest
import torch

from ms_detr.auxiliary import ATSSHead
from ms_detr.auxiliary.dense import per_process
from ms_detr.errors import ConfigError
from ms_detr.structures import Step

from ..processes import gloo
from ..supervision.test_host_waits import Watch
from . import dense_reference as reference
from .scenes import make_objects, make_pyramid, make_targets, objects_of

STRIDES = (8, 16, 32)
SIZES = [(50, 40), (33, 60), (64, 64)]
CHANNELS = 32


def atss(pyramid, targets):
    found = anchors_of(pyramid, (8.0,))
    return found, own_inside(pyramid, targets, found, lambda *x: reference.atss(*x)[0])


def anchors_of(pyramid, *args):
    shapes = [level.shape[-2:] for level in pyramid.maps]
    return reference.anchors(shapes, pyramid.strides, *args)


def own_inside(pyramid, targets, found, rule):
    """Owners and ignored anchors of every image by a rule for one."""
    owners, ignored = [], []
    for size, (_, boxes) in zip(pyramid.sizes.tolist(), objects_of(pyramid, targets), strict=True):
        inside = [reference.is_inside(anchor, pyramid.strides, size) for anchor in found]
        owners.append(rule(found, inside, boxes))
        ignored.append([not x for x in inside])
    return owners, ignored


CASES = {
    "atss": (
        functools.partial(ATSSHead),
        atss,
        lambda deltas, anchor: reference.from_deltas(deltas, anchor[3], (10, 5)),
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
    rng = np.random.default_rng(seed)
    boxes = [make_objects(rng, size, n) for size, n in zip(SIZES, counts, strict=False)]
    sizes = SIZES[: len(counts)]
    return make_pyramid(rng, sizes, STRIDES, CHANNELS), make_targets(rng, sizes, boxes)


@pytest.mark.parametrize("counts", [(3, 6, 1), (4, 0, 2), (0, 0), (5,)], ids=str)
def test_losses(case, counts):
    make, assign, decode = case
    weights = (0.5, 3.0, 2.0)
    options = dict(class_weight=0.5, box_weight=3.0)
    if build(make).centerness_conv is not None:
        options["centerness_weight"] = 2.0
    head = build(make, weight=7.0, **options)
    pyramid, targets = scene(counts)
    found, (owners, ignored) = assign(pyramid, targets)
    found_losses = head("some", pyramid, targets).losses
    outputs = head.outputs(pyramid)
    tensors = [outputs.logits, outputs.deltas]
    if outputs.centerness is not None:
        tensors.append(outputs.centerness)
    given = (outputs.logits, outputs.deltas, outputs.centerness)
    images = objects_of(pyramid, targets)
    expected = reference.losses(given, decode, found, owners, ignored, images, weights)
    assert found_losses.keys() == {f"some_head/loss_{name}" for name in expected}
    for name, value in expected.items():
        assert found_losses[f"some_head/loss_{name}"].item() == pytest.approx(
            7 * value.item(), rel=1e-10, abs=1e-12
        )
    if sum(counts):
        assert expected["giou"] > 0
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
    make, assign, _ = case
    head = build(make)
    pyramid, targets = scene((4, 3, 0))
    found, (owners, _) = assign(pyramid, targets)
    candidates = head("some", pyramid, targets).candidates
    assert not candidates.boxes.requires_grad and candidates.features.requires_grad
    background = targets.valid.shape[1]
    outside = 0
    for b, (width, height) in enumerate(SIZES):
        for i, (level, x, y, box) in enumerate(found):
            torch.testing.assert_close(
                candidates.features[b, i], pyramid.maps[level][b, :, y, x], rtol=0, atol=0
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
    head = build(case[0])
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
    head = build(case[0])
    pyramid, targets = scene((4, 0, 3))
    with Watch() as watch:
        sum(head("some", pyramid, targets).losses.values()).backward()
    assert watch.found() == {}


def test_one_cell_one_class_and_autocast(case):
    head = case[0](64, 1, (3,))
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


def count(rank, meeting, results):
    with gloo(meeting).joined(rank, rank):
        head = build(ATSSHead)
        losses = head("atss", *scene((3,) if rank else (0,), rank)).losses
        results.put((rank, {name: value.item() for name, value in losses.items()}))


def test_two_processes_train_as_one(tmp_path):
    """The mean of their losses is what one process with both images has."""
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [
        context.Process(target=count, args=(rank, tmp_path / "meeting", results))
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    found = dict(results.get(timeout=60) for _ in processes)
    for process in processes:
        process.join(timeout=60)
    head = build(ATSSHead)
    scenes = [scene((3,) if rank else (0,), rank) for rank in range(2)]
    alone = [head("atss", *x).losses for x in scenes]
    sums = [divisors(*x) for x in scenes]
    for name in found[0]:
        which = 1 if name.endswith("giou") else 0
        together = max(sum(own[which] for own in sums), 1.0)
        for rank in range(2):
            expected = alone[rank][name].item() * max(sums[rank][which], 1) * 2 / together
            assert found[rank][name] == pytest.approx(expected)


def divisors(pyramid, targets):
    """What an image's losses are divided by, alone: anchors with an object, their centerness."""
    found, (owners, _) = atss(pyramid, targets)
    ((_, boxes),) = objects_of(pyramid, targets)
    owned = [(found[i][3], boxes[owner]) for i, owner in enumerate(owners[0]) if owner >= 0]
    return max(len(owned), 1), sum(reference.centerness(*pair) for pair in owned)


def test_normalisers_are_at_least_one():
    assert per_process(torch.tensor([0.0, 3.0])).tolist() == [1, 3]
