"""Detectors with masks, from Detectron2's inputs to its instances."""

import pytest
import torch
from detectron2.config import instantiate
from detectron2.structures import BitMasks

from ms_detr.config import load

from .modeling.support import ROOT, SMALLER, make_batch, make_input, make_model

DOT = "configs/ms_detr/ms_detr_masks_r50_300q_12ep.py"
ATTENTION = "configs/ms_detr/ms_detr_attention_masks_r50_300q_12ep.py"


def small(config=DOT, *overrides):
    return make_model(*SMALLER, *overrides, config=config)


def test_losses_by_name():
    names = {name for name in small()(make_batch()) if "mask" in name or "dice" in name}
    assert names == {f"o2o/loss_{x}/{layer}" for x in ("mask", "dice") for layer in (0, 1)}
    names = {name for name in small(ATTENTION)(make_batch()) if "mask" in name or "dice" in name}
    assert names == {"o2o/loss_mask/1", "o2o/loss_dice/1"}


def test_the_proposals_have_no_masks():
    points = "model.criterion.terms.encoder.mask_points='${model.criterion.terms.o2o.mask_points}'"
    loss = "+model.criterion.terms.encoder.losses.mask='${model.criterion.terms.o2o.losses.mask}'"
    with pytest.raises(ValueError, match="none.*; the encoder's proposals have none"):
        small(DOT, points, loss)(make_batch())


@pytest.mark.parametrize("config", [DOT, ATTENTION])
def test_a_batch_without_objects_reaches_every_parameter(config):
    model = small(config)
    sum(model([make_input(48, 64), make_input(40, 40)]).values()).backward()
    for name, parameter in model.named_parameters():
        assert not parameter.requires_grad or parameter.grad is not None, name


def test_predictions_have_masks_at_the_files_size():
    model = small().eval()
    batch = make_batch()
    batch[0] |= {"height": 128, "width": 190}
    with torch.no_grad():
        made = [x["instances"] for x in model(batch)]
    assert made[0].pred_masks.shape == (100, 128, 190)
    assert made[1].pred_masks.shape == (100, 80, 64)
    assert made[0].pred_masks.dtype == torch.bool


def test_masks_change_no_box():
    """The branch only looks on: without it the same weights predict the same boxes."""
    model = small().eval()
    batch = make_batch()
    with torch.no_grad():
        masked = model(batch)
        model.masks = None
        plain = model(batch)
    for a, b in zip(masked, plain, strict=True):
        assert torch.equal(a["instances"].pred_boxes.tensor, b["instances"].pred_boxes.tensor)
        assert not b["instances"].has("pred_masks")


def test_padding_of_the_batch_moves_no_mask():
    """An image's masks are as large as the batch in the targets, in place at the top left."""
    model = small()
    batch = make_batch()
    targets = model.targets(batch, (96, 128))
    assert targets.masks.shape == (4, 96, 128)
    mask = batch[2]["instances"].gt_masks.tensor[0]
    assert torch.equal(targets.masks_of(2)[0, :48, :56], mask)
    assert not targets.masks_of(2)[0, 48:].any()
    assert not targets.masks_of(2)[0, :, 56:].any()


def test_missing_and_wrong_masks_are_named():
    model = small()
    batch = make_batch()
    batch[0]["instances"].remove("gt_masks")
    with pytest.raises(
        ValueError, match=r"1\.png has no masks to learn: set dataloader\.masks=true"
    ):
        model(batch)
    batch = make_batch()
    batch[0]["instances"].gt_masks = BitMasks(torch.zeros(3, 10, 10))
    with pytest.raises(ValueError, match=r"is \(64, 96\) pixels, its masks are \(10, 10\)"):
        model(batch)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("model.masks=null", "branch is missing"),
        ("model.masks.in_channels.res2=9", r"model\.masks\.in_channels wants 9 channels of 'res2'"),
    ],
)
def test_branch_and_terms_belong_together(override, says):
    with pytest.raises(ValueError, match=says):
        small(DOT, override)


def test_a_branch_that_no_term_trains():
    cfg = load(ROOT / DOT, SMALLER)
    o2o = cfg.model.criterion.terms.o2o
    o2o.mask_points = o2o.losses.mask = o2o.losses.dice = None
    with pytest.raises(ValueError, match="never trained"):
        instantiate(cfg.model)


def test_masks_may_be_supervised_one_to_many():
    overrides = (
        "+model.criterion.terms.o2m.losses.mask="
        "{_target_: ms_detr.supervision.MaskLoss, weight: 5}",
        "+model.criterion.terms.o2m.mask_points="
        "{_target_: ms_detr.supervision.MaskPoints, num_points: 50}",
    )
    assert {"o2m/loss_mask/0", "o2m/loss_mask/1"} <= set(small(DOT, *overrides)(make_batch()))
