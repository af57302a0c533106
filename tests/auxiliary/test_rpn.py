from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ms_detr.auxiliary.pixel_boxes import decode, nms_by_group
from ms_detr.auxiliary.pyramid import Pyramid
from ms_detr.auxiliary.rpn import RPN
from ms_detr.auxiliary.sampling import RandomSampler, ReassigningMatcher
from ms_detr.errors import ConfigError
from tests.auxiliary import rcnn_reference as slow
from tests.auxiliary.rcnn_scenes import (
    STRIDES,
    C,
    GivenDraws,
    make_pyramid,
    make_targets,
    pixels,
    shapes,
)


def make_rpn(levels: int = 3, std: float = 0.3, **options: RandomSampler) -> RPN:
    torch.manual_seed(3)
    rpn = RPN(C, levels, **options).double()
    for parameter in rpn.parameters():
        torch.nn.init.normal_(parameter, std=std)
    return rpn


def listed(rpn: RPN, pyramid: Pyramid, image: int) -> tuple[list[float], list[list[float]]]:
    """Logits and deltas of an image's anchors, read from the head's maps place by place."""
    logits, deltas = [], []
    for scores, boxes in zip(*rpn.head(pyramid.maps), strict=True):
        for y in range(scores.shape[2]):
            for x in range(scores.shape[3]):
                for ratio in range(3):
                    for size in range(3):
                        a = size * 3 + ratio  # as Detectron2 numbers them
                        logits.append(scores[image, a, y, x].item())
                        deltas.append(boxes[image, 4 * a : 4 * a + 4, y, x].tolist())
    return logits, deltas


def test_the_rpn_has_the_parameters_of_the_released_one() -> None:
    assert sum(x.numel() for x in RPN(256, 5).parameters()) == 601_645


def test_the_rpn_starts_as_the_released_one() -> None:
    for name, parameter in RPN(64, 5).named_parameters():
        if name.endswith("bias"):
            assert not parameter.any()
        else:
            assert parameter.std().item() == pytest.approx(0.01, rel=0.1)


@pytest.mark.parametrize("strides", [(8, 16, 32), (4, 8, 16, 32, 64, 128)])
def test_anchors(strides: tuple[int, ...]) -> None:
    pyramid = make_pyramid((70, 33), (50, 90), strides=strides)
    found = torch.cat(make_rpn(len(strides)).predict(pyramid).anchors)
    wanted = torch.tensor(slow.anchors(shapes(pyramid), list(strides)), dtype=torch.float64)
    assert torch.equal(found, wanted)


def test_every_anchor_has_its_own_outputs() -> None:
    pyramid = make_pyramid((70, 33), (50, 90))
    rpn = make_rpn()
    predicted = rpn.predict(pyramid)
    logits, deltas = listed(rpn, pyramid, 1)
    assert torch.cat(predicted.logits, 1)[1].tolist() == logits
    assert torch.cat(predicted.deltas, 1)[1].tolist() == deltas


@pytest.mark.parametrize("objects", [0, 1, 2, 5])
def test_matching(objects: int) -> None:
    generator = torch.Generator().manual_seed(objects)
    matcher = ReassigningMatcher(negative=0.3, positive=0.7, floor=0.3)
    for _ in range(100):  # of few values, so that many overlaps are equal
        overlaps = torch.randint(11, (objects, 12), generator=generator).double() / 10
        overlaps *= torch.rand((objects, 1), generator=generator) < 0.7
        matches, labels = matcher(overlaps)
        found = matches.where(labels == 1, labels.long() - 1)
        assert found.tolist() == slow.match(overlaps.tolist(), 12, 0.3, 0.7, 0.3)


def test_of_objects_that_share_their_best_anchor_the_last_gets_it() -> None:
    matcher = ReassigningMatcher(negative=0.3, positive=0.7, floor=0.3)
    matches, labels = matcher(torch.tensor([[0.9, 0.2, 0.1], [0.4, 0.2, 0.3], [0.29, 0.2, 0.0]]))
    assert labels.tolist() == [1, 0, -1]
    assert matches[0] == 1


class LargestResult(TorchDispatchMode):
    """Watches how many bytes the largest result of an operation takes."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        tensors = result if isinstance(result, (tuple, list)) else [result]
        sizes = [x.nbytes for x in tensors if isinstance(x, torch.Tensor)]
        self.largest = max(self.largest, *sizes, 0)
        return result


def test_matching_needs_no_more_than_the_overlaps_take() -> None:
    overlaps = torch.rand(50, 400)
    with LargestResult() as watch:
        ReassigningMatcher(negative=0.3, positive=0.7, floor=0.3)(overlaps)
    assert 0 < watch.largest <= overlaps.nbytes


def test_draws_are_those_of_a_permutation_of_positives_and_then_of_negatives() -> None:
    labels = torch.tensor([1, 0, -1, 1, 0, 0, 1, 0] * 5)
    sampler = RandomSampler(16, 0.5)
    torch.manual_seed(1)
    positives, negatives = sampler(labels)
    torch.manual_seed(1)
    for found, label, count in ((positives, 1, 15), (negatives, 0, 20)):
        index = [n for n, x in enumerate(labels.tolist()) if x == label]
        assert found.tolist() == sorted(index[k] for k in torch.randperm(count)[:8])


def test_nothing_is_drawn_where_all_are_taken() -> None:
    sampler = GivenDraws(8, 0.5)
    positives, negatives = sampler(torch.tensor([0, 1, 0, -1, 1]))
    assert positives.tolist() == [1, 4] and negatives.tolist() == [0, 2]
    assert not sampler.draws


@pytest.mark.parametrize("options", [(0, 0.5), (8, 1.5), (8, -0.1)])
def test_a_sampler_that_draws_nothing_is_an_error(options: tuple[int, float]) -> None:
    with pytest.raises(ConfigError, match="a sampler draws 1 or more"):
        RandomSampler(*options)


# Objects that are shifted reach out of their image, to anchors that don't count.
@pytest.mark.parametrize(
    ("counts", "shift"), [((3, 0), 0.0), ((2, 4), 0.0), ((0, 0), 0.0), ((9, 1), 0.0), ((3, 3), 0.7)]
)
@pytest.mark.parametrize("number", [16, 5000])
def test_losses_of_the_rpn(counts: tuple[int, int], shift: float, number: int) -> None:
    sampler = GivenDraws(number, 0.25)
    rpn = make_rpn(sampler=sampler)
    pyramid, targets = make_pyramid((96, 64), (61, 80)), make_targets(*counts)
    targets = replace(targets, boxes=targets.boxes + torch.tensor([shift, 0, 0, 0]))
    losses, _ = rpn(pyramid, targets)
    anchors = slow.anchors(shapes(pyramid), list(STRIDES))
    classes, boxes, counted = 0.0, 0.0, 0
    for image in range(2):
        logits, deltas = listed(rpn, pyramid, image)
        objects = pixels(pyramid, targets, image)
        size = tuple(pyramid.sizes[image].tolist())
        inside = slow.is_inside(shapes(pyramid), list(STRIDES), size)
        kept = [n for n, x in enumerate(inside) if x]
        overlaps = [[slow.iou(box, anchors[n]) for n in kept] for box in objects]
        found = slow.match(overlaps, len(kept), 0.3, 0.7, 0.3)
        positive, negative = slow.sample(found, number, 0.25, sampler.draws)
        classes += sum(slow.bce(logits[kept[n]], 1) for n in positive)
        classes += sum(slow.bce(logits[kept[n]], 0) for n in negative)
        for n in positive:
            wanted = slow.encode(anchors[kept[n]], objects[found[n]])
            boxes += sum(abs(a - b) for a, b in zip(deltas[kept[n]], wanted, strict=True))
        counted += max(len(positive), 1) + max(len(negative), 1)
    assert not sampler.draws
    assert losses["loss_class"].item() == pytest.approx(classes / counted, rel=1e-9)
    assert losses["loss_bbox"].item() == pytest.approx(boxes / counted, rel=1e-9)


@pytest.mark.parametrize(("counts", "normaliser"), [((3, 0), 513), ((2, 4), 512), ((0, 0), 514)])
def test_an_image_without_positives_counts_one(counts: tuple[int, int], normaliser: int) -> None:
    rpn = make_rpn(std=0)  # the loss of each anchor is log 2
    losses, _ = rpn(make_pyramid((128, 96), (128, 96)), make_targets(*counts))
    assert losses["loss_class"].item() == pytest.approx(512 * math.log(2) / normaliser)


@pytest.mark.parametrize(("per_level", "most"), [(4000, 1000), (50, 30)])
def test_proposals(per_level: int, most: int) -> None:
    rpn = make_rpn(std=0.5)  # some boxes reach the bound, many are cut away
    pyramid = make_pyramid((72, 40), (33, 60))
    found = rpn.propose(rpn.predict(pyramid), pyramid, per_level, most)
    anchors = slow.anchors(shapes(pyramid), list(STRIDES))
    for image, proposals in enumerate(found):
        assert not proposals.requires_grad
        logits, deltas = listed(rpn, pyramid, image)
        size = tuple(pyramid.sizes[image].tolist())
        boxes, scores, levels, first = [], [], [], 0
        for level, (height, width) in enumerate(shapes(pyramid)):
            own = range(first, first + 9 * height * width)
            first = own.stop
            for n in sorted(own, key=lambda n: -logits[n])[:per_level]:
                box = slow.clip(slow.decode(deltas[n], anchors[n]), size)
                if box[2] > box[0] and box[3] > box[1]:
                    boxes.append(box)
                    scores.append(slow.sigmoid(logits[n]))
                    levels.append(level)
        kept = slow.nms(boxes, scores, levels, 0.7)[:most]
        wanted = torch.tensor([boxes[n] for n in kept], dtype=torch.float64)
        torch.testing.assert_close(proposals, wanted, rtol=1e-9, atol=1e-9)


def test_decoding_is_bounded_on_both_sides() -> None:
    box = torch.tensor([0.0, 0.0, 16.0, 16.0])
    for scaling in (100.0, -100.0):
        found = decode(torch.tensor([0.0, 0.0, scaling, scaling]), box)
        size = 16 * (1000 / 16) ** math.copysign(1, scaling)
        torch.testing.assert_close(found, 8 + size / 2 * torch.tensor([-1.0, -1.0, 1.0, 1.0]))


def test_groups_do_not_suppress_each_other() -> None:
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0]] * 3)
    scores = torch.tensor([0.2, 0.9, 0.5])
    assert nms_by_group(boxes, scores, torch.tensor([0, 1, 1]), 0.5).tolist() == [1, 0]
    assert nms_by_group(boxes[:0], scores[:0], torch.zeros(0, dtype=torch.long), 0.5).tolist() == []


def test_overlaps_are_those_of_groups_laid_side_by_side_in_single_precision() -> None:
    boxes = torch.tensor([[0, 0, 1, 1], [0, 0, 0.502, 1], [0, 0, 1333, 1333]])
    scores = torch.tensor([0.9, 0.8, 0.1])
    groups = torch.tensor([79, 79, 0])  # from 79 * 1334 on, where 0.502 is 0.5
    assert nms_by_group(boxes, scores, groups, 0.5).tolist() == [0, 1, 2]
    assert nms_by_group(boxes.double(), scores.double(), groups, 0.5).tolist() == [0, 2]
