"""A model in half precision, or under autocast."""

import pytest
import torch

from ms_detr.modeling import LearnedInitializer

from .support import make_batch, make_model


@pytest.mark.parametrize("kind", ["two_stage", "refined"])
@pytest.mark.parametrize("pure", [True, False])
def test_half_precision_keeps_boxes_and_losses_in_single(kind, pure):
    model = make_model("model.dropout=0.0")
    if kind == "refined":
        model.query_initializer = LearnedInitializer(num_queries=12, embed_dim=64)
        del model.criterion.terms["encoder"]
    batch = make_batch()
    images, mask = model.preprocess(batch)
    targets = model.targets(batch)
    if pure:
        model, images = model.bfloat16(), images.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=not pure):
        predictions = model.forward_tensors(images, mask, targets)
    for made in predictions.values():
        assert (made.logits.dtype, made.boxes.dtype) == (torch.bfloat16, torch.float32)
    losses = model.criterion(predictions, targets)
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
