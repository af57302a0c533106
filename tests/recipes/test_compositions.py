"""What recipes refuse, and compositions that have to be told what the host is."""

import pytest
import torch
from detectron2.config import instantiate

from ms_detr.recipes import (
    at_the_output,
    at_the_output_self_first,
    deformable_detr,
    detr,
    group,
    hybrid,
    ms_detr,
    run,
    swin_tiny,
    with_masks,
)

from ..modeling.support import make_batch, rooted


@pytest.mark.parametrize("implementation", [at_the_output, at_the_output_self_first])
def test_heads_of_a_tap_are_the_hosts(implementation):
    """Softmax over the classes and nothing, on DETR."""
    torch.manual_seed(0)
    model = instantiate(rooted(ms_detr(detr(deformable_detr()), implementation)))
    losses = model(make_batch())
    assert losses["o2m/loss_class/0"].isfinite()


def test_a_backbone_keeps_weights_that_were_chosen():
    train = run(init_checkpoint="mine.pth")
    with pytest.raises(ValueError, match=r"init_checkpoint is mine\.pth.*call it first"):
        swin_tiny(deformable_detr(), train)
    assert train.init_checkpoint == "mine.pth"
    swin_tiny(deformable_detr(), fresh := run())
    assert "swin_tiny" in fresh.init_checkpoint
    swin_tiny(deformable_detr(), fresh)


@pytest.mark.parametrize(("add", "name"), [(group, "group"), (hybrid, "hybrid")])
def test_masks_of_a_term_that_follows_another(add, name):
    with pytest.raises(ValueError, match=f"the term {name} follows another one by links"):
        with_masks(add(deformable_detr()), terms=(name,))
