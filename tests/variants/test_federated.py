"""Federated loss, against a slow one that knows nothing of how it is made."""

import math

import pytest
import torch
from omegaconf import OmegaConf

from ms_detr.errors import ConfigError
from ms_detr.recipes import coco, deformable_detr, federated, ms_detr
from ms_detr.supervision import FocalLoss
from ms_detr.supervision.losses import Matches
from ms_detr.variants.detr import SoftmaxLoss
from ms_detr.variants.federated import FederatedLoss

FREQUENCIES = [400, 100, 25, 4, 1, 0, 900, 16]


def matches_of(labels, classes=8, layers=2, seed=0):
    torch.manual_seed(seed)
    labels = torch.tensor(labels)[None, None].expand(layers, 1, -1).clone()
    logits = torch.randn(*labels.shape, classes, dtype=torch.float64, requires_grad=True)
    return Matches(logits, labels, None, None, None, None)


def slow_focal(matches, chosen, alpha=0.25, gamma=2.0):
    """Sums, layer by layer, over every query and every chosen class, in plain numbers."""
    sums = []
    for logits, labels in zip(matches.logits.tolist(), matches.labels.tolist(), strict=True):
        total = 0.0
        for row, label in zip(logits[0], labels[0], strict=True):
            for k in chosen:
                p = 1 / (1 + math.exp(-row[k]))
                if k == label:
                    total += -alpha * (1 - p) ** gamma * math.log(p)
                else:
                    total += -(1 - alpha) * p**gamma * math.log(1 - p)
        sums.append(total)
    return sums


@pytest.mark.parametrize("count", [1, 3, 5, 8])
def test_counts_the_drawn_classes_alone(count, monkeypatch):
    matches = matches_of([3, 8, 0, 3, 8])
    loss = FederatedLoss(FocalLoss(2.0), FREQUENCIES, count)
    drawn = []
    choose = FederatedLoss.choose
    monkeypatch.setattr(
        FederatedLoss, "choose", lambda self, *a: drawn.append(choose(self, *a)) or drawn[-1]
    )
    found = loss(matches)
    (chosen,) = [x.tolist() for x in drawn]
    assert {0, 3} <= set(chosen) and len(set(chosen)) == len(chosen)
    # Class 5 is in no image, and never drawn.
    assert len(chosen) == min(max(count, 2), 7) and 5 not in chosen
    assert found.tolist() == pytest.approx(slow_focal(matches, chosen))
    found.sum().backward()
    others = [k for k in range(8) if k not in chosen]
    assert (matches.logits.grad[..., others] == 0).all()
    assert (matches.logits.grad[..., chosen] != 0).all()
    assert loss.weight == 2.0


def test_all_classes_are_the_loss_itself():
    matches = matches_of([3, 8, 0])
    plain = FocalLoss(1.0)
    assert torch.equal(FederatedLoss(plain, [1] * 8, 8)(matches), plain(matches))


def test_ignored_queries_and_images_without_objects():
    matches = matches_of([8, 8, 8])
    loss = FederatedLoss(FocalLoss(1.0), FREQUENCIES, 4)
    torch.manual_seed(3)
    chosen = loss.choose(torch.zeros(0, dtype=torch.int64), 8)
    torch.manual_seed(3)
    assert loss(matches).tolist() == pytest.approx(slow_focal(matches, chosen.tolist()))


@pytest.mark.parametrize(
    ("power", "odds"), [(0.5, [20, 10, 5]), (1.0, [400, 100, 25]), (0, [1, 1, 1])]
)
def test_classes_are_drawn_by_their_frequency(power, odds):
    loss = FederatedLoss(FocalLoss(1.0), [400, 100, 25, 7], 2, power)
    torch.manual_seed(0)
    draws = 4000
    counts = torch.zeros(4)
    for _ in range(draws):
        counts[loss.choose(torch.tensor([3]), 4)] += 1
    assert counts[3] == draws
    for found, share in zip(counts[:3].tolist(), odds, strict=True):
        expected = share / sum(odds)
        assert abs(found / draws - expected) < 4 * math.sqrt(expected * (1 - expected) / draws)


def test_frequencies_are_asked_for_once_and_late():
    asked = []
    loss = FederatedLoss(FocalLoss(1.0), lambda: asked.append(1) or FREQUENCIES, 3)
    assert not asked
    loss(matches_of([1]))
    loss(matches_of([2]))
    assert asked == [1]
    with pytest.raises(ConfigError, match="frequencies of 8 classes, the model 9"):
        loss(matches_of([1], classes=9))


def test_losses_that_have_no_place_for_it():
    with pytest.raises(ConfigError, match="is for sigmoid probabilities"):
        FederatedLoss(SoftmaxLoss(1.0), FREQUENCIES)
    with pytest.raises(ConfigError, match="at least 1"):
        FederatedLoss(FocalLoss(1.0), FREQUENCIES, 0)


def test_the_recipe_wraps_what_tells_classes_apart():
    model = federated(ms_detr(deformable_detr()), num_classes=40)
    terms = model.criterion.terms
    for name in ("o2o", "o2m"):
        node = terms[name].losses["class"]
        assert node["_target_"] is FederatedLoss and node.loss["_target_"] is FocalLoss
        assert node.num_classes == 40
    assert terms.o2o.losses["class"].loss.weight == 1.0
    assert terms.encoder.losses["class"]["_target_"] is FocalLoss
    whole = OmegaConf.create({"model": model, "dataloader": coco()}, flags={"allow_objects": True})
    frequencies = whole.model.criterion.terms.o2o.losses["class"].frequencies
    assert frequencies.dataset_name == "coco_2017_train"
