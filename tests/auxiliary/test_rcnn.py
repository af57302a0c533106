from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ms_detr.auxiliary.pyramid import Pyramid
from ms_detr.auxiliary.rcnn import FasterRCNNHead
from ms_detr.auxiliary.region_align import RegionAlign
from ms_detr.auxiliary.sampling import RandomSampler
from ms_detr.engine.fine_tune import fine_tune
from ms_detr.errors import ConfigError
from ms_detr.layers.boxes import cxcywh_to_xyxy
from ms_detr.structures import Step, Targets
from tests.auxiliary import rcnn_reference as slow
from tests.auxiliary.rcnn_scenes import STRIDES, C, GivenDraws, make_pyramid, make_targets, pixels

K = 5
LARGE, FINE = ((260, 190), (200, 150)), (4, 8, 16)  # regions are seen on two levels
Regions = list[list[float]]


def make_head(classes: int = K, levels: int = 3, **options: Any) -> FasterRCNNHead:
    torch.manual_seed(4)
    head = FasterRCNNHead(C, classes, [levels - 1, 1], **options).double()
    for parameter in head.rpn.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    for parameter in (*head.cls_score.parameters(), *head.bbox_pred.parameters()):
        torch.nn.init.normal_(parameter, std=0.1)
    return head


def looked_up(pyramid: Pyramid, image: int, regions: Regions) -> Tensor:
    """What RoIAlign reads, by its slow reference."""
    found = []
    for box in regions:
        level = slow.level(box, 14 * pyramid.strides[0], len(pyramid.strides) - 1)
        own = pyramid.maps[level][image].detach().numpy()
        found.append(torch.from_numpy(slow.roi_align(own, box, pyramid.strides[level])))
    return torch.stack(found) if found else torch.zeros(0, C, 7, 7, dtype=torch.float64)


def predicted(head: FasterRCNNHead, read: Tensor) -> tuple[list[list[float]], list[Regions]]:
    """Logits (R, K + 1) and deltas (R, K, 4)."""
    x = head.box_layers(read)
    logits = x @ head.cls_score.weight.T + head.cls_score.bias
    rows = list(zip(head.bbox_pred.weight, head.bbox_pred.bias, strict=True))
    return logits.tolist(), torch.stack([x @ w.T + b for w, b in rows], 1).tolist()


def sampled(
    found: list[int], objects: Regions, proposals: Regions, sampler: GivenDraws
) -> tuple[Regions, list[int]]:
    """Regions and their objects, -1 for background."""
    found = [*range(len(objects)), *found]
    positive, negative = slow.sample(
        found, sampler.number, sampler.positive_fraction, sampler.draws
    )
    index = positive + negative
    return [(objects + proposals)[n] for n in index], [found[n] for n in index]


def test_the_head_has_the_parameters_of_the_released_one() -> None:
    head = FasterRCNNHead(256, 80, [4, 1])
    own = sum(x.numel() for name, x in head.named_parameters() if not name.startswith("rpn."))
    assert own == 14_306_705
    assert not any(x.any() for name, x in head.named_parameters() if name.endswith("bias"))
    assert head.cls_score.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert head.bbox_pred.weight.std().item() == pytest.approx(0.001, rel=0.05)
    for layer in (head.box_layers[1], head.box_layers[3]):
        bound = math.sqrt(6 / (layer.in_features + layer.out_features))
        assert layer.weight.abs().max().item() == pytest.approx(bound, rel=0.01)
        assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.01)


def test_a_head_of_fewer_channels() -> None:
    head = FasterRCNNHead(16, 3, [2, 1], channels=8)
    names = ("box_layers.1", "box_layers.3", "cls_score", "bbox_pred")
    shapes = [tuple(head.get_submodule(name).weight.shape) for name in names]
    assert shapes == [(8, 16 * 49), (8, 8), (4, 8), (3, 4, 8)]


@pytest.mark.parametrize("strides", [(8, 16, 32, 64, 128), (4, 8, 16, 32, 64)])
def test_levels_of_regions(strides: tuple[int, ...]) -> None:
    finest = {8: 112, 4: 56}[strides[0]]
    pyramid = Pyramid(tuple(torch.zeros(1, 1, 1, 1) for _ in strides), strides, torch.ones(1, 2))
    sides = [finest * 2**k * (1 + e) for k in range(-2, 6) for e in (-1e-5, -1e-7, 0, 1e-7, 0.5)]
    boxes = torch.tensor([[3, 5, 3 + 2 * x, 5 + x / 2] for x in sides], dtype=torch.float64)
    found = RegionAlign().levels(pyramid, boxes).tolist()
    assert found == [slow.level(box, finest, 4) for box in boxes.tolist()]
    just_below = sides.index(finest * 2 * (1 - 1e-7))
    assert found[just_below - 1 : just_below + 1] == [0, 1]
    assert set(found) == {0, 1, 2, 3}


@pytest.mark.parametrize("counts", [(3, 0), (2, 4), (0, 0)])
def test_losses_and_candidates(counts: tuple[int, int]) -> None:
    sampler = GivenDraws(16, 0.25)
    head = make_head(sampler=sampler, anchor_sampler=RandomSampler(8, 0.5))
    pyramid, targets = make_pyramid(*LARGE, strides=FINE), make_targets(*counts)
    found = head("rcnn", pyramid, targets)
    proposals = head.rpn.propose(head.rpn.predict(pyramid), pyramid, per_level=4000)
    classes, boxes, number, levels = 0.0, 0.0, 0, set()
    for image in range(2):
        objects, regions = pixels(pyramid, targets, image), proposals[image].tolist()
        overlaps = [[slow.iou(box, region) for region in regions] for box in objects]
        matches = slow.match(overlaps, len(regions), 0.5, 0.5, None)
        regions, owners = sampled(matches, objects, regions, sampler)
        read = looked_up(pyramid, image, regions)
        logits, deltas = predicted(head, read)
        for n, owner in enumerate(owners):
            label = K if owner < 0 else targets.labels[image, owner].item()
            classes -= math.log(slow.softmax(logits[n])[label])
            if owner >= 0:
                box = slow.decode(deltas[n][label], regions[n], (0.1, 0.1, 0.2, 0.2))
                boxes += slow.giou_loss(box, objects[owner])
        number += len(regions)
        levels |= {slow.level(box, 56, 2) for box in regions}

        background = targets.labels.shape[1]
        wanted = [background if owner < 0 else owner for owner in owners]
        assert found.candidates.objects[image].tolist() == wanted
        corners = cxcywh_to_xyxy(found.candidates.boxes[image]) * pyramid.scale[image]
        torch.testing.assert_close(corners, torch.tensor(regions, dtype=torch.float64))
        torch.testing.assert_close(found.candidates.features[image], read.mean((2, 3)))
    assert number == 32 and not sampler.draws
    assert levels == {0, 1} or not sum(counts)
    losses = {name: loss.item() for name, loss in found.losses.items()}
    assert losses["rcnn_head/loss_class"] == pytest.approx(12 * classes / number, rel=1e-9)
    assert losses["rcnn_head/loss_giou"] == pytest.approx(120 * boxes / number, rel=1e-7)
    assert set(losses) == {
        f"rcnn_{part}"
        for part in ("head/loss_class", "head/loss_giou", "rpn/loss_class", "rpn/loss_bbox")
    }


def test_losses_are_weighted_and_a_part_of_a_step_counts_as_such() -> None:
    pyramid, targets = make_pyramid((96, 64), (61, 80)), make_targets(2, 1)
    options = {
        "class_weight": 2.0,
        "box_weight": 3.0,
        "rpn_class_weight": 5.0,
        "rpn_box_weight": 7.0,
    }
    part = replace(targets, step=Step(objects=9, own=9, most=4, images=8))
    torch.manual_seed(0)
    wanted = make_head()("a", pyramid, targets).losses
    found = make_head(weight=6.0, **options)("a", pyramid, part).losses
    ratios = {name: (found[name] / wanted[name]).item() for name in wanted}
    assert ratios == pytest.approx({
        "a_head/loss_class": 2 / 8, "a_head/loss_giou": 3 / 80,
        "a_rpn/loss_class": 5 / 8, "a_rpn/loss_bbox": 7 / 8,
    })  # fmt: skip


def test_objects_of_one_box_keep_it_each() -> None:
    boxes = torch.tensor([[0.5, 0.5, 0.4, 0.4]] * 2, dtype=torch.float64)
    targets = Targets.from_list([{"labels": torch.tensor([1, 3]), "boxes": boxes}])
    found = make_head()("a", make_pyramid((64, 64)), targets).candidates
    assert found.objects[0, :2].tolist() == [0, 1]
    torch.testing.assert_close(found.boxes[0, :2], boxes)


def test_an_object_without_area_is_learnt_without_harm() -> None:
    boxes = torch.tensor([[0.3, 0.3, 0.0, 0.0], [0.6, 0.6, 0.4, 0.0]], dtype=torch.float64)
    targets = Targets.from_list([{"labels": torch.tensor([1, 3]), "boxes": boxes}])
    head = make_head()
    found = head("a", make_pyramid((64, 64)), targets)
    sum(found.losses.values()).backward()
    assert all(x.grad.isfinite().all() for x in head.parameters())
    assert found.candidates.objects[0, :3].tolist() == [0, 1, 2]
    assert found.candidates.features.isfinite().all()
    assert found.losses["a_head/loss_giou"] >= 0


def test_candidates_are_as_many_as_the_image_with_fewest_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    head = make_head()
    pyramid, targets = make_pyramid((160, 160), (9, 7)), make_targets(1, 2)
    proposals = head.rpn.propose(head.rpn.predict(pyramid), pyramid, per_level=4000)
    counts = [len(x) + n for x, n in zip(proposals, targets.counts, strict=True)]
    assert counts[0] > counts[1]
    found = head("a", pyramid, targets).candidates
    assert found.boxes.shape == (2, counts[1], 4)
    assert found.objects.shape == (2, counts[1]) and found.features.shape == (2, counts[1], C)
    assert found.objects[0, 0] == 0 and found.objects[1, :2].tolist() == [0, 1]
    monkeypatch.setattr("ms_detr.auxiliary.rcnn.MOST_CANDIDATES", 3)
    assert head("a", pyramid, targets).candidates.boxes.shape == (2, 3, 4)


@pytest.mark.parametrize("counts", [(2, 3), (0, 0)])
def test_gradients(counts: tuple[int, int]) -> None:
    head = make_head()
    pyramid = make_pyramid(*LARGE, strides=FINE)
    found = head("a", pyramid, make_targets(*counts))
    assert not found.candidates.boxes.requires_grad
    sum(found.losses.values()).backward(retain_graph=True)
    assert all(x.grad is not None and x.grad.isfinite().all() for x in head.parameters())
    assert bool(head.bbox_pred.weight.grad.any()) == (sum(counts) > 0)
    for level in pyramid.maps:
        assert level.grad.any()
        level.grad = None
    found.candidates.features.sum().backward()
    assert all(level.grad.any() for level in pyramid.maps[:-1])
    assert pyramid.maps[-1].grad is None  # no gradient through the proposals


def test_the_regions_losses_reach_the_maps_through_what_they_read_alone() -> None:
    head = make_head()
    pyramid = make_pyramid((260, 190))
    losses = head("a", pyramid, make_targets(3)).losses
    (losses["a_head/loss_class"] + losses["a_head/loss_giou"]).backward()
    assert all(x.grad is None for x in head.rpn.parameters())
    assert pyramid.maps[0].grad.any() and pyramid.maps[-1].grad is None


@pytest.mark.parametrize("classes", [1, K])
@pytest.mark.parametrize("sizes", [((1, 1),), ((5, 3), (33, 9))])
def test_tiny_images_and_one_class(classes: int, sizes: tuple[tuple[float, float], ...]) -> None:
    head = make_head(classes)
    pyramid = make_pyramid(*sizes)
    found = head("a", pyramid, make_targets(*range(len(sizes)), classes=classes))
    assert all(loss.isfinite() for loss in found.losses.values())
    assert found.candidates.boxes.isfinite().all()
    for detections in head.detect(pyramid):
        assert ((detections.boxes >= 0) & (detections.boxes <= 1)).all()


def test_detections() -> None:
    head, best = (make_head(score_threshold=0.3, top_k=top_k) for top_k in (100, 3))
    pyramid = make_pyramid((96, 64), (61, 80))
    with torch.no_grad():
        found, first = head.detect(pyramid), best.detect(pyramid)
        proposals = head.rpn.propose(head.rpn.predict(pyramid), pyramid, 1000)
    for image, detections in enumerate(found):
        regions, size = proposals[image].tolist(), tuple(pyramid.sizes[image].tolist())
        read = head.align(pyramid, [x if n == image else x[:0] for n, x in enumerate(proposals)])
        logits, deltas = predicted(head, read)
        boxes, scores, labels, queries = [], [], [], []
        for n, region in enumerate(regions):
            for label, score in enumerate(slow.softmax(logits[n])[:-1]):
                if score > 0.3:
                    box = slow.decode(deltas[n][label], region, (0.1, 0.1, 0.2, 0.2))
                    boxes.append(slow.clip(box, size))
                    scores.append(score)
                    labels.append(label)
                    queries.append(n)
        kept = slow.nms(boxes, scores, labels, 0.5)[:100]
        assert len(kept) > 3
        assert torch.equal(first[image].scores, detections.scores[:, :3])
        assert detections.labels.tolist() == [[labels[n] for n in kept]]
        assert detections.queries.tolist() == [[queries[n] for n in kept]]
        wanted = torch.tensor([[boxes[n] for n in kept]], dtype=torch.float64)
        torch.testing.assert_close(detections.boxes * pyramid.scale[image], wanted)
        assert detections.scores[0].tolist() == pytest.approx([scores[n] for n in kept])


def test_under_autocast_boxes_and_losses_are_in_single_precision() -> None:
    head = make_head().float()
    pyramid, targets = make_pyramid((96, 64), (61, 80)), make_targets(2, 1)
    maps = tuple(x.detach().bfloat16() for x in pyramid.maps)
    pyramid = Pyramid(maps, STRIDES, pyramid.sizes.float())
    with torch.autocast("cpu", torch.bfloat16):
        found = head("a", pyramid, replace(targets, boxes=targets.boxes.float()))
    for value in (*found.losses.values(), found.candidates.boxes, found.candidates.features):
        assert value.dtype == torch.float32 and value.isfinite().all()


def test_rows_of_classes_are_taken_over_by_name(tmp_path: Path) -> None:
    theirs, ours = make_head(2), make_head(3)
    fresh = {name: x.clone() for name, x in ours.state_dict().items()}
    torch.save({"model": theirs.state_dict()}, tmp_path / "theirs.pth")
    fine_tune(ours, str(tmp_path / "theirs.pth"), ["cat", "dog"], ["dog", "bird", "cat"])
    for name in ("cls_score.weight", "cls_score.bias", "bbox_pred.weight", "bbox_pred.bias"):
        given, found = theirs.state_dict()[name], ours.state_dict()[name]
        assert torch.equal(found[:3], torch.stack((given[1], fresh[name][1], given[0])))
    assert torch.equal(ours.cls_score.weight[-1], theirs.cls_score.weight[-1])  # background


def test_bad_options() -> None:
    with pytest.raises(ConfigError, match="built for 3 levels, encoder and adapter make 2"):
        make_head()("a", make_pyramid((64, 64), strides=(8, 16)), make_targets(1))
    for name in ("class_weight", "box_weight", "rpn_class_weight", "rpn_box_weight"):
        with pytest.raises(ConfigError, match=f"a loss's {name} can't be negative, got -1"):
            make_head(**{name: -1.0})
    for name in ("top_k", "channels"):
        with pytest.raises(ConfigError, match=f"{name} of at least 1, got 0"):
            make_head(**{name: 0})
