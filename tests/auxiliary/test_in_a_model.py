"""One-stage heads beside a small detector's decoder, from its config."""

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate

from ms_detr.auxiliary import (
    Adapter,
    ATSSHead,
    Auxiliary,
    AuxiliaryHeads,
    FCOSHead,
    RetinaNetHead,
)
from ms_detr.config import load
from ms_detr.engine.fine_tune import rows_of

from ..modeling.support import ROOT, SMALL, make_input

HEADS = {"atss": ATSSHead, "retinanet": RetinaNetHead, "fcos": FCOSHead}
LEVELS = ("${model.neck.num_levels}", "${model.auxiliary.adapter.num_levels}")


def make_model(*overrides):
    cfg = load(ROOT / SMALL)
    shared = dict(
        embed_dim="${model.embed_dim}", num_classes="${model.num_classes}", num_levels=LEVELS
    )
    cfg.model.auxiliary = L(Auxiliary)(
        adapter=L(Adapter)(embed_dim="${model.embed_dim}", num_levels=1),
        heads=L(AuxiliaryHeads)(**{name: L(head)(**shared) for name, head in HEADS.items()}),
    )
    cfg.model.evaluate_head = None
    for name, value in overrides:
        cfg.model[name] = value
    torch.manual_seed(0)
    return instantiate(cfg.model)


def test_a_training_step():
    model = make_model()
    losses = model([make_input(64, 80, [1, 0]), make_input(48, 64)])
    for name in HEADS:
        assert losses[f"{name}_head/loss_class"].isfinite()
        assert losses[f"{name}_head/loss_giou"].isfinite()
    sum(value for name, value in losses.items() if "_head/" in name).backward()
    assert all(p.grad is not None for p in model.auxiliary.parameters())
    assert next(p for p in model.encoder.parameters() if p.ndim > 1).grad.any()
    assert "auxiliary.heads.atss.class_convs.0.weight" in rows_of(model)


@pytest.mark.parametrize("name", HEADS)
def test_a_head_is_evaluated(name):
    model = make_model(("evaluate_head", name)).eval()
    x = make_input(64, 80)
    x["height"], x["width"] = 128, 160
    (found,) = model([x])
    instances = found["instances"]
    assert 0 < len(instances) <= 100
    boxes = instances.pred_boxes.tensor
    assert (boxes[:, 2:] <= boxes.new_tensor((160, 128))).all() and boxes.max() > 80
    assert (instances.scores[:-1] >= instances.scores[1:]).all()
