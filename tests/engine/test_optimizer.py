"""Parameter groups and the optimiser of a config."""

import logging
import re

import pytest
import torch
from detectron2.config import LazyCall as L
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import DictConfig
from torch import nn

from ms_detr.engine import build_optimizer, parameter_groups


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.backbone[0].requires_grad_(False)
        self.sampling_offsets = nn.Linear(4, 4)
        self.reference_points = nn.Linear(4, 4)
        self.ref_point_head = nn.Linear(4, 4)
        self.head = self.shared = nn.Linear(4, 4)


FACTORS = {"backbone": 0.1, "sampling_offsets": 0.1, "reference_points": 0.1}


def rates(groups, model):
    names = {id(p): name for name, p in model.named_parameters()}
    return {names[id(p)]: group["lr"] for group in groups for p in group["params"]}


def test_published_recipe():
    model = Model()
    groups = parameter_groups(model, 2e-4, FACTORS)
    assert [group["lr"] for group in groups] == pytest.approx([2e-4, 2e-5])
    found = rates(groups, model)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            assert name not in found
        else:
            tenth = any(part in name for part in FACTORS)
            assert found[name] == pytest.approx(2e-5 if tenth else 2e-4), name
    assert found["ref_point_head.weight"] == pytest.approx(2e-4)


def test_the_log_says_what_each_factor_has_matched(caplog):
    """Parameters that are trained; a longer part takes what a shorter one matches, too."""
    caplog.set_level(logging.INFO, "ms_detr")
    parameter_groups(Model(), 2e-4, {"backbone": 0.1, "backb": 0.5, "head": 0.2})
    assert [record.getMessage() for record in caplog.records] == [
        "learning rate 0.0002: all others, 4 tensors",
        "learning rate 2e-05: backbone, 2 tensors (backbone.1.weight, backbone.1.bias)",
        "learning rate 0.0001: backb, 0 tensors",
        "learning rate 4e-05: head, 4 tensors "
        "(ref_point_head.weight, ref_point_head.bias, head.weight, head.bias)",
    ]


def test_longest_part_wins():
    model = Model()
    found = rates(
        parameter_groups(model, 1.0, {"backbone.1": 0.5, "backbone": 0.1, "ba": 3}), model
    )
    assert found["backbone.1.weight"] == 0.5
    found = rates(parameter_groups(model, 1.0, {"ba": 3, "backbone": 0.1, "1": 7}), model)
    assert found["backbone.1.weight"] == pytest.approx(0.1)


@given(st.dictionaries(st.sampled_from(["back", "backbone", "head", "e", "weight", "s"]),
                       st.sampled_from([0.0, 0.1, 0.5, 1.0])))  # fmt: skip
def test_every_trainable_parameter_is_in_one_group(factors):
    model = Model()
    groups = parameter_groups(model, 1.0, factors)
    listed = [id(p) for group in groups for p in group["params"]]
    assert len(listed) == len(set(listed))
    assert set(listed) == {id(p) for p in model.parameters() if p.requires_grad}
    assert len({group["lr"] for group in groups}) == len(groups)


def test_a_factor_that_matches_nothing_is_an_error():
    for part, hint in (("bakbone", "; the nearest names are backbone"), ("q", "")):
        expected = (
            f"optimizer.params.lr_factors.{part} matches no parameter of the model{hint} "
            f"(~optimizer.params.lr_factors.{part} drops it)"
        )
        with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
            parameter_groups(Model(), 1.0, {"head": 0.5, part: 0.1})


def test_a_factor_of_what_was_frozen_or_has_a_longer_one_is_fine():
    model = Model()
    model.backbone.requires_grad_(False)
    found = rates(parameter_groups(model, 1.0, {"backbone": 0.1, "head": 0.5, "_head": 0.2}), model)
    assert set(found.values()) == {1.0, 0.5, 0.2}
    assert not any(name.startswith("backbone") for name in found)


def test_errors():
    with pytest.raises(ValueError, match=r"lr_factors\.backbone is negative"):
        parameter_groups(Model(), 1.0, {"backbone": -1})
    for lr in (-1.0, None, float("nan")):
        with pytest.raises(ValueError, match=f"optimizer.lr must be .* got {lr}"):
            parameter_groups(Model(), lr)
    with pytest.raises(ValueError, match="no trainable parameter"):
        parameter_groups(Model().requires_grad_(False), 1.0)


def test_optimizer_of_a_config():
    cfg = DictConfig(
        {
            "optimizer": L(torch.optim.AdamW)(
                params=L(parameter_groups)(base_lr="${optimizer.lr}", lr_factors=FACTORS),
                lr=3e-4,
                betas=(0.9, 0.99),
                weight_decay=1e-4,
            )
        },
        flags={"allow_objects": True},
    )
    optimizer = build_optimizer(cfg.optimizer, Model())
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([3e-4, 3e-5])
    for group in optimizer.param_groups:
        assert group["weight_decay"] == 1e-4
        assert type(group["betas"]) is tuple  # else no checkpoint could be read safely
    assert "model" not in cfg.optimizer.params  # the config stays text
