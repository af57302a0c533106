"""Denoising queries: their noise, their places, and what the loss sees of them."""

import dataclasses

import numpy as np
import pytest
import torch
from detectron2.config import instantiate

from ms_detr.config import load
from ms_detr.modeling import LearnedInitializer
from ms_detr.structures import Predictions, Queries, Targets
from ms_detr.supervision import (
    Criterion,
    FocalLoss,
    GIoULoss,
    KnownAssigner,
    L1Loss,
    Losses,
    SupervisionTerm,
    Terms,
)
from ms_detr.variants.contrastive_denoising import ContrastiveDenoising
from ms_detr.variants.denoising import Denoising, Indicated

from ..layers import reference as layers
from ..layers.support import random, randomise
from ..modeling.support import ROOT
from ..modeling.test_decoder import make_inputs
from ..supervision import reference
from ..supervision.support import make_images, make_predictions, make_targets

CLASSES, DIM = 10, 8
MANY = 20_000
DN, CDN = "dn", "cdn"


def make(kind, **options):
    group = {DN: Denoising, CDN: ContrastiveDenoising}[kind]
    return randomise(group(CLASSES, DIM, **options))


def primary(batch):
    boxes = random(batch, 2, 4).sigmoid()
    position_of = lambda boxes: torch.cat((boxes, -boxes), -1)  # noqa: E731
    return Queries(random(batch, 2, DIM), position_of(boxes), boxes, position_of)


def targets_of(labels, boxes):
    """One image."""
    boxes = torch.from_numpy(np.array(boxes)).view(-1, 4)
    return Targets.from_list([{"labels": torch.tensor(labels), "boxes": boxes}])


def run(group, targets, seed=0):
    torch.manual_seed(seed)
    start = primary(len(targets.counts))
    return group(start, start.part(2, 2), targets)


def offsets(kind, box, **options):
    """How far boxes (N, 4) of many copies of one object lie from it."""
    count = {"num_groups": MANY} if kind == DN else {"num_queries": MANY}
    made = run(make(kind, **count, **options), targets_of([3], [box]))
    return made.queries.reference[0].numpy()


def uniform(values, low, high):
    """Whether the values are spread evenly from low to high."""
    assert values.min() >= low - 1e-9 and values.max() <= high + 1e-9
    counts, _ = np.histogram(values, 10, (low, high))
    # Five standard deviations of a binomial count.
    expected = len(values) / 10
    assert abs(counts - expected).max() < 5 * (0.9 * expected) ** 0.5


def test_box_noise_of_dn():
    """Centres by up to 0.2 of the size, sizes by up to 0.4 of it; each coordinate by itself."""
    box = np.array([0.5, 0.4, 0.2, 0.3])
    found = offsets(DN, box)
    size = np.array([0.2, 0.3])
    for axis in range(2):
        uniform((found[:, axis] - box[axis]) / size[axis], -0.2, 0.2)
        uniform((found[:, 2 + axis] - size[axis]) / size[axis], -0.4, 0.4)
    assert abs(np.corrcoef(found.T) - np.eye(4)).max() < 0.05


@pytest.mark.parametrize("scale", [0.4, 1.0])
def test_box_noise_of_contrastive_denoising(scale):
    """Positives move each corner by less than half the size times the noise, negatives by more."""
    box = np.array([0.5, 0.4, 0.2, 0.3])
    found = offsets(CDN, box, box_noise=scale)
    low, high = found[:, :2] - found[:, 2:] / 2, found[:, :2] + found[:, 2:] / 2
    moved = np.stack((low - (box[:2] - box[2:] / 2), high - (box[:2] + box[2:] / 2)), 1)
    moved /= scale * box[2:] / 2
    positive, negative = moved[0::2].reshape(-1, 4), moved[1::2].reshape(-1, 4)
    if scale == 1.0:  # corners of negatives may pass each other: such boxes have no size
        crossed = (found[1::2, 2:] < 1e-3).any(-1)
        assert 0.2 < crossed.mean() < 0.8
        assert (found > 0).all()
        negative = negative[~crossed]
    for axis in range(4):
        uniform(positive[:, axis], -1, 1)
        assert (abs(negative[:, axis]) >= 1 - 1e-9).all()
        if scale != 1.0:
            uniform(negative[:, axis] - np.sign(negative[:, axis]), -1, 1)
    assert abs(np.corrcoef(positive.T) - np.eye(4)).max() < 0.05


def in_logits(box, epsilon):
    """What the published code makes of a noised box: logits, and boxes of them in the decoder."""
    return [layers.sigmoid(layers.inverse_sigmoid(x, epsilon)) for x in box]


@pytest.mark.parametrize("kind", [DN, CDN])
@pytest.mark.parametrize("epsilon", [1e-3, 1e-5])
def test_boxes_are_clamped_in_logits(kind, epsilon):
    """Tiny boxes, whole sides of the image, boxes at its corners."""
    boxes = [
        [0.0002, 0.9997, 0.0004, 0.0006],
        [0.5, 0.5, 1.0, 1.0],
        [0.3, 0.0004, 0.2, 0.0],
        [1.0, 0.6, 0.0, 0.4],
    ]
    # The least coordinate is the one of zero, and not epsilon itself.
    assert in_logits([0.0], 1e-3) == pytest.approx([1e-3 / 1.001], rel=1e-12)
    count = {"num_groups": 1} if kind == DN else {"num_queries": 1}
    group = make(kind, **count, box_noise=0.0, epsilon=epsilon)
    found = run(group, targets_of([1, 2, 3, 4], boxes)).queries.reference[0, :4]
    expected = [in_logits(box, epsilon) for box in boxes]
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert epsilon == 1e-5 or make(kind).epsilon == epsilon


def test_align_detrs_noise_leaves_no_coordinate_beyond_the_clamp():
    """Half of its negatives are turned inside out and would have no size."""
    found = offsets(CDN, [0.5, 0.4, 0.2, 0.3], box_noise=1.0)
    least = in_logits([0.0], 1e-3)[0]
    assert found.min() == pytest.approx(least, rel=1e-9)
    assert (np.isclose(found, least, rtol=1e-9)).any(-1).mean() > 0.1


@pytest.mark.parametrize("config", ["dn_detr/dn", "dn_detr/cdn"])
def test_one_epsilon_for_denoising_and_decoder(config):
    path = f"configs/{config}_deformable_detr_pp_r50_300q_12ep.py"
    for value in (1e-3, 1e-4):
        model = load(ROOT / path, [f"model.decoder.epsilon={value}"]).model
        assert instantiate(model.groups.denoising).epsilon == model.decoder.epsilon == value
    assert load(ROOT / path).model.decoder.epsilon == 1e-3


@pytest.mark.parametrize("kind", [DN, CDN])
def test_boxes_stay_in_the_image(kind):
    found = offsets(kind, [0.03, 0.97, 0.06, 0.5], box_noise=1.0)
    assert (found >= 0).all() and (found <= 1).all()
    if kind == CDN:
        assert (found[:, :2] - found[:, 2:] / 2 >= -1e-9).all()
        assert (found[:, :2] + found[:, 2:] / 2 <= 1 + 1e-9).all()


@pytest.mark.parametrize(("kind", "rate"), [(DN, 0.2), (CDN, 0.25)])
def test_label_noise(kind, rate):
    """A flipped label is any class, its own among them, the positives' and negatives' alike."""
    count = {"num_groups": MANY} if kind == DN else {"num_queries": MANY}
    group = make(kind, **count)
    made = run(group, targets_of([3], [0.5, 0.5, 0.2, 0.2]))
    encoded = made.queries.content[0, :, : group.embedding.embedding_dim]
    table = group.embedding.weight
    labels = torch.cdist(encoded, table).argmin(-1)
    assert torch.equal(table[labels], encoded)
    parts = [labels] if kind == DN else [labels[0::2], labels[1::2]]
    for part in parts:
        counts = torch.bincount(part, minlength=CLASSES).double() / len(part)
        others = [label for label in range(CLASSES) if label != 3]
        assert counts[others].numpy() == pytest.approx(rate / CLASSES, abs=0.006)
        assert counts[3].item() == pytest.approx(1 - 0.9 * rate, abs=0.015)
    group.label_noise = 0.0
    silent = run(group, targets_of([3], [0.5, 0.5, 0.2, 0.2])).queries.content
    assert (silent[0, :, : encoded.shape[1]] == table[3]).all()


OBJECTS = [
    {
        "labels": torch.tensor([4, 7, 1]),
        "boxes": torch.tensor(
            [[0.2, 0.3, 0.1, 0.2], [0.6, 0.5, 0.3, 0.3], [0.8, 0.8, 0.2, 0.1]], dtype=torch.double
        ),
    },
    {"labels": torch.tensor([9]), "boxes": torch.tensor([[0.4, 0.4, 0.4, 0.4]]).double()},
    {"labels": torch.zeros(0).long(), "boxes": torch.zeros(0, 4).double()},
]


def slots(kind):
    """What stands where: (copy, part, object) of every query."""
    copies, parts = (2, 1) if kind == DN else (2, 2)
    return [(c, p, g) for c in range(copies) for p in range(parts) for g in range(3)]


def make_without_noise(kind):
    count = {"num_groups": 2} if kind == DN else {"num_queries": 8}
    return make(kind, **count, label_noise=0.0, box_noise=0.0)


@pytest.mark.parametrize("kind", [DN, CDN])
def test_places(kind):
    """Without noise every query is its object; one that stands for none is empty."""
    group = make_without_noise(kind)
    made = run(group, Targets.from_list(OBJECTS))
    places = slots(kind)
    assert made.queries.count == len(places) == sum(made.blocks)
    assert made.blocks == ((3, 3) if kind == DN else (6, 6))
    assert made.sees_primary
    for b, image in enumerate(OBJECTS):
        for query, (_, part, g) in enumerate(places):
            content = made.queries.content[b, query]
            box = made.queries.reference[b, query]
            if g < len(image["labels"]):
                expected = group.embedding.weight[image["labels"][g]]
                assert torch.equal(content[: len(expected)], expected)
                if part == 0:
                    torch.testing.assert_close(box, image["boxes"][g])
                assert kind == CDN or content[-1] == 1
            else:
                assert (content == 0).all()
                assert (box == 0.5).all()
            if kind == DN:
                assert made.ignored[b, query] == (g >= len(image["labels"]))
    assert (made.ignored is None) == (kind == CDN)
    torch.testing.assert_close(
        made.queries.position, torch.cat((made.queries.reference, -made.queries.reference), -1)
    )
    assert not made.queries.reference.requires_grad


def criterion():
    losses = Losses(**{"class": FocalLoss(1.0)}, bbox=L1Loss(5.0), giou=GIoULoss(2.0))
    return Criterion(Terms(dn=SupervisionTerm("dn.decoder", KnownAssigner(), losses)))


@pytest.mark.parametrize("kind", [DN, CDN])
@pytest.mark.parametrize("counts", [(3, 1, 0), (2, 2)], ids=str)
def test_losses_equal_the_loops(kind, counts):
    """Every copy of an object reconstructs it; a negative is background, and so is what is empty.

    In DN-DETR what is empty costs nothing. Divided by the objects times the copies.
    """
    rng = np.random.default_rng(0)
    images = make_images(rng, counts, CLASSES)
    targets = make_targets(images)
    made = run(make(kind, **({"num_groups": 2} if kind == DN else {"num_queries": 7})), targets)
    copies = len(made.blocks)
    assert copies == (2 if kind == DN else 7 // max(counts))
    predicted = make_predictions(rng, images, made.queries.count, CLASSES)
    logits = predicted.logits
    predicted = dataclasses.replace(predicted, assignment=made.assignment, ignored=made.ignored)
    found = criterion()(Predictions({"dn.decoder": predicted}), targets)
    most, parts = max(counts), 1 if kind == DN else 2
    for layer in range(2):
        total = {"class": 0.0, "bbox": 0.0, "giou": 0.0}
        for b, image in enumerate(images):
            boxes = predicted.boxes[layer, b]
            for query in range(made.queries.count):
                negative, g = divmod(query % (parts * most), most)
                real = g < len(image["labels"])
                if not real and kind == DN:
                    continue
                label = int(image["labels"][g]) if real and not negative else None
                total["class"] += reference.class_loss(logits[layer, b, query][None], [label])
                if label is not None:
                    pair = {(query, g)}
                    total["bbox"] += 5 * reference.l1_loss(boxes, image["boxes"], pair)
                    total["giou"] += 2 * reference.giou_loss(boxes, image["boxes"], pair)
        for name, loss in total.items():
            expected = (loss / (copies * sum(counts))).item()
            assert found[f"dn/loss_{name}/{layer}"].item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("objects", "copies"), [(0, 100), (1, 100), (7, 14), (51, 1), (100, 1), (300, 1)]
)
def test_copies_of_contrastive_denoising(objects, copies):
    assert ContrastiveDenoising(CLASSES, DIM).num_copies(objects) == copies


@pytest.mark.parametrize("kind", [DN, CDN])
def test_the_same_seed_draws_the_same(kind):
    targets = Targets.from_list(OBJECTS)
    group = make(kind, label_noise=0.5)
    first, again, other = (run(group, targets, seed).queries for seed in (0, 0, 1))
    assert torch.equal(first.reference, again.reference)
    assert torch.equal(first.content, again.content)
    assert not torch.equal(first.reference, other.reference)
    assert not torch.equal(first.content, other.content)


@pytest.mark.parametrize("kind", [DN, CDN])
def test_targets_stay_bit_identical(kind):
    targets = Targets.from_list(OBJECTS)
    before = targets.boxes._version, targets.labels._version
    run(make(kind), targets)
    assert (targets.boxes._version, targets.labels._version) == before


def test_the_indicator_is_0_in_the_primary_content():
    plain = randomise(LearnedInitializer(3, DIM, extra_queries=[2]))
    indicated = Indicated(plain)
    memory = make_inputs()[1]
    for supervised in (False, True):
        expected, _ = plain(memory, supervised)
        found, _ = indicated(memory, supervised)
        assert (found.content[..., -1] == 0).all() and found.indicated
        assert torch.equal(found.content[..., :-1], expected.content[..., :-1])
        assert torch.equal(found.position, expected.position)
        assert torch.equal(found.reference, expected.reference)
    assert (indicated.num_queries, indicated.embed_dim, indicated.extra_queries) == (3, DIM, 2)
    assert (indicated.reference_size, indicated.sources) == (2, frozenset())
