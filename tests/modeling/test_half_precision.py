"""A model in half precision, or under autocast."""

import pytest
import torch

from ms_detr.modeling import LearnedInitializer

from .support import SMALLER, make_batch, make_model

SMALL_FAMILY = ("model.encoder.num_layers=1", "model.decoder.num_layers=2")


def halve(model, pure):
    """Make the model half, or leave it to autocast; its inputs and the context to run it in."""
    batch = make_batch()
    images, mask = model.preprocess(batch)
    targets = model.targets(batch, (80, 96))
    if pure:
        model, images = model.bfloat16(), images.bfloat16()
    return images, mask, targets, torch.autocast("cpu", torch.bfloat16, enabled=not pure)


@pytest.mark.parametrize("kind", ["two_stage", "refined"])
@pytest.mark.parametrize("pure", [True, False])
def test_half_precision_keeps_boxes_and_losses_in_single(kind, pure):
    model = make_model("model.dropout=0.0")
    if kind == "refined":
        model.query_initializer = LearnedInitializer(num_queries=12, embed_dim=64)
        del model.criterion.terms["encoder"]
    images, mask, targets, half = halve(model, pure)
    with half:
        predictions = model.forward_tensors(images, mask, targets)
    for made in predictions.values():
        assert (made.logits.dtype, made.boxes.dtype) == (torch.bfloat16, torch.float32)
    losses = model.criterion(predictions, targets)
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    "method",
    [
        "dino",
        "dab_deformable",
        "dab",
        "conditional",
        "smca",
        "smca_multi_scale",
        "sam",
        "sam_smca",
        "sam_multi_scale",
        "detr",
        "dn",
        "co_atss",
    ],
)
@pytest.mark.parametrize("pure", [True, False])
def test_the_family_keeps_boxes_and_losses_in_single(method, pure):
    levels = ("model.decoder.levels=[2,0]",) if method == "sam_multi_scale" else ()
    config = f"configs/demo/family/ms_detr_{method}.py"
    model = make_model(*SMALL_FAMILY, *levels, config=config)
    images, mask, targets, half = halve(model, pure)
    with half:
        predictions = model.forward_tensors(images, mask, targets)
    assert {made.boxes.dtype for made in predictions.values()} == {torch.float32}
    losses = model.criterion(predictions, targets)
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    with torch.no_grad(), half:
        alone = model.eval().forward_tensors(images, mask)["decoder"]
    assert alone.boxes.isfinite().all()


@pytest.mark.parametrize("kind", ["masks", "attention_masks"])
@pytest.mark.parametrize("pure", [True, False])
def test_masks_are_compared_in_single(kind, pure):
    config = f"configs/ms_detr/ms_detr_{kind}_r50_300q_12ep.py"
    model = make_model(*SMALLER, config=config)
    images, mask, targets, half = halve(model, pure)
    with half:
        predictions = model.forward_tensors(images, mask, targets)
        torch.manual_seed(1)
        losses = model.criterion(predictions, targets)
        some = torch.zeros(2, dtype=torch.int64)
        assert predictions["decoder"].masks.logits(0, some, some).dtype == torch.float32
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    if not pure:  # the points are drawn by the same seed
        torch.manual_seed(1)
        outside = model.criterion(predictions, targets)
        assert all(torch.equal(losses[name], outside[name]) for name in losses)


@pytest.mark.parametrize(
    "method", ["ms_detr_dino", "ms_detr_detr", "align", "co", "ms_detr_hybrid"]
)
def test_autocast_has_no_part_in_matching_and_losses(method):
    model = make_model(*SMALL_FAMILY, config=f"configs/demo/family/{method}.py")
    images, mask, targets, half = halve(model, pure=False)
    with half:
        predictions = model.forward_tensors(images, mask, targets)
        torch.manual_seed(1)
        inside = model.criterion(predictions, targets)
        torch.manual_seed(1)
        found = model.criterion.assign(predictions, targets)
    torch.manual_seed(1)
    outside = model.criterion(predictions, targets)
    torch.manual_seed(1)
    expected = model.criterion.assign(predictions, targets)
    assert all(torch.equal(inside[name], outside[name]) for name in outside)
    for name, assignment in expected.items():
        assert torch.equal(found[name].query, assignment.query)
        assert torch.equal(found[name].valid, assignment.valid)
