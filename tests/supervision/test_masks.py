"""Masks: points, overlaps, losses, costs against slow loops, in float64."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ms_detr.layers.points import uncertain_points
from ms_detr.structures import Assignment, PredictionSet, QueryMasks, Targets
from ms_detr.supervision import (
    DiceLoss,
    HungarianAssigner,
    L1Loss,
    Losses,
    MaskCost,
    MaskLoss,
    MaskOverlap,
    MaskPoints,
    ObjectCount,
    PaperTopK,
    SupervisionTerm,
    masks,
)
from ms_detr.supervision.one_to_many import box_overlap

from . import support

pytestmark = pytest.mark.usefixtures("float64")


@dataclass
class GivenMasks(QueryMasks):
    """Masks (L, B, Q, h, w) that are there already."""

    maps: torch.Tensor

    @property
    def num_layers(self):
        return len(self.maps)

    def logits(self, image, layer, query):
        return self.maps[layer, image, query]

    def logits_at(self, points):
        for layer in self.maps:
            rows = zip(layer, points, strict=True)
            yield torch.stack([masks.sample(maps[None], at[None])[0] for maps, at in rows])


def scene(counts=(2, 0, 3), queries=8, layers=2, masked=2, size=(12, 20), seed=0):
    """Predictions with masks in the last `masked` layers, and targets."""
    rng = np.random.default_rng(seed)
    images = support.make_images(rng, counts)
    for image, count in zip(images, counts, strict=True):
        image["masks"] = torch.from_numpy(rng.random((count, *size)) < 0.4)
    made = support.make_predictions(rng, images, queries, layers=layers)
    maps = torch.from_numpy(rng.normal(0, 2, (masked, len(counts), queries, 6, 10)))
    maps.requires_grad_()
    return replace(made, masks=GivenMasks(maps)), Targets.from_list(images)


def bilinear(image, x, y):
    """Value at (x, y) in fractions, pixel centres at halves, 0 outside; one point, plain Python."""
    height, width = image.shape
    column, row = x * width - 0.5, y * height - 0.5
    total = 0.0
    for r in (int(np.floor(row)), int(np.floor(row)) + 1):
        for c in (int(np.floor(column)), int(np.floor(column)) + 1):
            if 0 <= r < height and 0 <= c < width:
                total += (1 - abs(row - r)) * (1 - abs(column - c)) * float(image[r, c])
    return total


def values_at(image, points):
    return np.array([bilinear(image, x, y) for x, y in points.tolist()])


def cross_entropy(x, t):
    p = 1 / (1 + np.exp(-x))
    return float(np.mean(-t * np.log(p) - (1 - t) * np.log(1 - p)))


def dice(x, t):
    p = 1 / (1 + np.exp(-x))
    return float(1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1))


def truth(targets, image, item):
    return targets.masks[sum(targets.counts[:image]) + item].numpy()


def term(source="decoder", points=7, **options):
    return SupervisionTerm(
        source,
        HungarianAssigner(),
        Losses(bbox=L1Loss(1.0), mask=MaskLoss(2.0), dice=DiceLoss(3.0)),
        mask_points=MaskPoints(points, **options),
    )


@pytest.mark.parametrize("masked", [1, 2])
@pytest.mark.parametrize("importance", [0.0, 0.75, 1.0])
def test_losses_of_a_term(masked, importance):
    """Every pair's points are drawn as PointRend draws them; all else is a plain loop."""
    predictions, targets = scene(masked=masked)
    made = term(importance=importance)
    assignment = made.assigner.assign(
        predictions, targets, made.assigner.host_costs(predictions, targets).numpy()
    )
    torch.manual_seed(3)
    losses = made.compute(predictions, targets, assignment, ObjectCount(torch.tensor(5.0)))

    torch.manual_seed(3)
    expected = {}
    maps = predictions.masks.maps.detach()
    for image, count in enumerate(targets.counts):
        pairs = [
            (layer, g, assignment.query[2 - masked + layer, image, g, 0].item())
            for layer in range(masked)
            for g in range(count)
        ]
        logits = torch.stack([maps[layer, image, q] for layer, _, q in pairs] or [maps[0, 0, 0]])
        points = uncertain_points(logits[: len(pairs)], 7, 3.0, importance)
        for (layer, g, q), at in zip(pairs, points, strict=True):
            x = values_at(maps[layer, image, q].numpy(), at)
            t = values_at(truth(targets, image, g), at)
            for name, value in (("mask", 2 * cross_entropy(x, t)), ("dice", 3 * dice(x, t))):
                key = f"loss_{name}/{2 - masked + layer}"
                expected[key] = expected.get(key, 0.0) + value / 5
    found = {k: v.item() for k, v in losses.items() if "bbox" not in k}
    assert found == pytest.approx(expected, abs=1e-12)
    assert set(losses) >= {"loss_bbox/0", "loss_bbox/1"}


def test_uncertain_points_are_uncertain():
    logits = torch.linspace(-5, 5, 400).expand(3, 20, 400).contiguous()
    near = uncertain_points(logits, 50, 4.0, 1.0)[..., 0]
    anywhere = uncertain_points(logits, 50, 4.0, 0.0)[..., 0]
    assert (near - 0.5).abs().max() < 0.25
    assert (anywhere - 0.5).abs().max() > 0.4


def test_losses_and_gradients():
    logits, targets = torch.randn(4, 9, requires_grad=True), torch.rand(4, 9)
    for loss, slow in ((MaskLoss(1.0), cross_entropy), (DiceLoss(1.0), dice)):
        expected = [
            slow(x, t) for x, t in zip(logits.detach().numpy(), targets.numpy(), strict=True)
        ]
        assert loss(logits, targets).tolist() == pytest.approx(expected, abs=1e-12)
        assert torch.autograd.gradcheck(lambda x, f=loss: f(x, targets), logits)


def test_gradients_do_not_hang_on_the_pieces(monkeypatch):
    """Recomputing in backward draws the same points again."""

    def gradient():
        torch.manual_seed(5)
        predictions, targets = scene(counts=(1,))
        made = term(points=30)
        assignment = made.assigner.assign(
            predictions, targets, made.assigner.host_costs(predictions, targets).numpy()
        )
        torch.manual_seed(7)
        losses = made.compute(predictions, targets, assignment, ObjectCount(torch.tensor(1.0)))
        maps = predictions.masks.maps
        return torch.autograd.grad(sum(v for k, v in losses.items() if "bbox" not in k), maps)[0]

    monkeypatch.setattr(masks, "MAX_VALUES", 1)
    recomputed = gradient()
    monkeypatch.setattr(masks, "checkpoint", lambda f, *x, use_reentrant: f(*x))
    assert torch.equal(gradient(), recomputed)
    assert recomputed.abs().max() > 0


def test_few_pairs_are_not_recomputed(monkeypatch):
    """Six pairs of one layer: masks of 12 x 20 pixels, and 8 values for the only point."""
    predictions, targets = scene(counts=(5, 1))
    query = torch.arange(5).expand(2, 2, 5)[..., None]
    assignment = Assignment(query, targets.valid.expand(2, 2, 5)[..., None], targets.labels)
    calls = []

    def counted(*args, **options):
        calls.append(args)
        return checkpoint(*args, **options)

    monkeypatch.setattr(masks, "checkpoint", counted)
    for bound, expected in ((2 * 6 * 248, 0), (2 * 6 * 248 - 1, 2)):
        monkeypatch.setattr(masks, "MAX_VALUES", bound)
        points = MaskPoints(1, oversample=1)
        points.losses(predictions, targets, assignment, [MaskLoss(1.0)])
        assert len(calls) == expected


def test_pieces_are_bounded(monkeypatch):
    predictions, targets = scene(counts=(5, 1))
    seen = []
    logits = GivenMasks.logits

    def counted(self, image, layer, query):
        seen.append(len(query))
        return logits(self, image, layer, query)

    monkeypatch.setattr(GivenMasks, "logits", counted)
    monkeypatch.setattr(masks, "MAX_VALUES", 3 * (12 * 20 + 8))
    query = torch.arange(5).expand(2, 2, 5)[..., None]
    valid = targets.valid.expand(2, 2, 5)[..., None]
    assignment = Assignment(query, valid, targets.labels)
    points = MaskPoints(1, oversample=1)
    sums = points.losses(predictions, targets, assignment, [MaskLoss(1.0)])
    assert seen == [3, 3, 3, 1, 2]  # 2 layers of 5 and of 1
    assert sums.shape == (1, 2)


@pytest.mark.parametrize("counts", [(0,), (0, 0), (310, 0)])
def test_no_object_and_more_objects_than_queries(counts):
    predictions, targets = scene(counts=counts, queries=20)
    layer = nn.Linear(1, 1)  # stands for the branch's parameters
    maps = predictions.masks.maps * layer.weight
    predictions = replace(predictions, masks=GivenMasks(maps))
    made = term()
    cost = made.assigner.host_costs(predictions, targets).numpy()
    losses = made.compute(
        predictions,
        targets,
        made.assigner.assign(predictions, targets, cost),
        ObjectCount(torch.tensor(1.0)),
    )
    total = sum(losses.values())
    assert total.isfinite()
    total.backward()
    assert layer.weight.grad is not None
    assert (layer.weight.grad != 0) == bool(sum(counts))


def test_objects_of_one_pixel_and_of_none():
    predictions, targets = scene(counts=(2,))
    tiny = torch.zeros_like(targets.masks)
    tiny[0, 5, 5] = True
    targets = replace(targets, masks=tiny)
    made = term()
    cost = made.assigner.host_costs(predictions, targets).numpy()
    assignment = made.assigner.assign(predictions, targets, cost)
    losses = made.compute(predictions, targets, assignment, ObjectCount(torch.tensor(1.0)))
    assert all(loss.isfinite() for loss in losses.values())


def test_overlaps_of_all_pairs():
    predictions, targets = scene()
    torch.manual_seed(11)
    found = list(masks.overlaps(predictions, targets, 9))
    torch.manual_seed(11)
    points = torch.rand(3, 9, 2)
    maps = predictions.masks.maps.detach().numpy()
    for layer, pairs in enumerate(found):
        for image, count in enumerate(targets.counts):
            for g in range(count):
                t = values_at(truth(targets, image, g), points[image])
                for q in range(8):
                    x = values_at(maps[layer, image, q], points[image])
                    p = 1 / (1 + np.exp(-x))
                    both = (p * t).sum()
                    assert [
                        pairs.cross_entropy[image, g, q].item(),
                        pairs.dice[image, g, q].item(),
                        pairs.iou[image, g, q].item(),
                    ] == pytest.approx(
                        [cross_entropy(x, t), dice(x, t), both / (p.sum() + t.sum() - both)],
                        abs=1e-12,
                    )


def test_objects_at_points_in_pieces(monkeypatch):
    _, targets = scene(counts=(5, 0, 2))
    points = torch.rand(3, 6, 2)
    whole = masks.objects_at(targets, points)
    monkeypatch.setattr(masks, "MAX_VALUES", 2 * 12 * 20)
    assert torch.equal(masks.objects_at(targets, points), whole)
    assert (whole[1] == 0).all()


def sure_masks(targets, queries, layers):
    """Every object's own mask at query = its number, nothing elsewhere."""
    maps = torch.full((layers, len(targets.counts), queries, *targets.masks.shape[1:]), -9.0)
    for image, count in enumerate(targets.counts):
        for g in range(count):
            maps[:, image, g][:, torch.from_numpy(truth(targets, image, g))] = 9.0
    return GivenMasks(maps)


def test_mask_costs_decide_where_all_else_is_equal():
    predictions, targets = scene(counts=(3, 2))
    same = PredictionSet(
        torch.zeros_like(predictions.logits),
        torch.full_like(predictions.boxes, 0.5),
        masks=sure_masks(targets, 8, layers=1),
    )
    assigner = HungarianAssigner(further_cost=MaskCost(num_points=60))
    cost = assigner.host_costs(same, targets)
    assert torch.equal(cost[0], HungarianAssigner().host_costs(same, targets)[0])  # has no masks
    query = assigner.assign(same, targets, cost.numpy()).query
    assert query[1, 0, :3, 0].tolist() == [0, 1, 2]
    assert query[1, 1, :2, 0].tolist() == [0, 1]


def test_mask_costs_are_weighted():
    predictions, targets = scene()
    torch.manual_seed(1)
    pairs = list(masks.overlaps(predictions, targets, 9))
    torch.manual_seed(1)
    further = MaskCost(mask_cost=2.0, dice_cost=3.0, num_points=9)
    cost = HungarianAssigner(further_cost=further).host_costs(predictions, targets)
    plain = HungarianAssigner().host_costs(predictions, targets)
    for layer in range(2):
        expected = plain[layer] + 2 * pairs[layer].cross_entropy + 3 * pairs[layer].dice
        torch.testing.assert_close(cost[layer], expected)


def test_masks_in_the_one_to_many_score():
    predictions, targets = scene(counts=(3, 2))
    predictions = replace(predictions, masks=sure_masks(targets, 8, layers=1))
    boxes = box_overlap(predictions, targets)
    for share in (0.0, 0.25, 1.0):
        torch.manual_seed(2)
        (pairs,) = masks.overlaps(predictions, targets, 300)
        torch.manual_seed(2)
        mixed = MaskOverlap(share, num_points=300)(predictions, targets)
        torch.testing.assert_close(mixed[0], boxes[0])  # has no masks
        torch.testing.assert_close(mixed[1], (1 - share) * boxes[1] + share * pairs.iou)
    k = PaperTopK(k=1, threshold=0.0, alpha=0.0, overlap=MaskOverlap(1.0, num_points=300))
    query = k.assign(predictions, targets, None).query
    assert query[1, 0, :, 0].tolist() == [0, 1, 2]


def test_errors_name_what_to_set():
    predictions, targets = scene()
    bare = replace(predictions, masks=None)
    with pytest.raises(ValueError, match=r"set model\.masks"):
        MaskCost()(bare, targets)
    with pytest.raises(ValueError, match="set dataloader.masks=true"):
        list(masks.overlaps(predictions, replace(targets, masks=None), 5))
    with pytest.raises(ValueError, match="both mask_points and losses of masks"):
        SupervisionTerm("decoder", HungarianAssigner(), Losses(mask=MaskLoss(1.0)))
    with pytest.raises(ValueError, match="both mask_points and losses of masks"):
        SupervisionTerm(
            "decoder", HungarianAssigner(), Losses(bbox=L1Loss(1.0)), mask_points=MaskPoints()
        )
    for wrong in ({"num_points": 0}, {"oversample": 0.5}, {"importance": 1.5}):
        with pytest.raises(ValueError, match="num_points"):
            MaskPoints(**wrong)
    with pytest.raises(ValueError, match=r"overlap\.share"):
        MaskOverlap(1.5)


def test_targets_keep_masks_in_order():
    image = {"labels": torch.tensor([1, 2]), "boxes": torch.full((2, 4), 0.5)}
    filled = torch.arange(2 * 4 * 6).view(2, 4, 6) % 3 == 0
    empty = {"labels": image["labels"][:0], "boxes": image["boxes"][:0], "masks": filled[:0]}
    targets = Targets.from_list([{**image, "masks": filled}, empty, {**image, "masks": ~filled}])
    assert torch.equal(targets.masks_of(0), filled)
    assert targets.masks_of(1).shape == (0, 4, 6)
    assert torch.equal(targets.masks_of(2), ~filled)
    with pytest.raises(ValueError, match="either no image has masks or every one"):
        Targets.from_list([{**image, "masks": filled}, image])
    with pytest.raises(ValueError, match=r"\(1, 4, 6\)"):
        Targets.from_list([{**image, "masks": filled[:1]}])
