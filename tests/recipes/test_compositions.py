"""What recipes refuse, and compositions that have to be told what the host is."""

import pytest
import torch
from detectron2.config import instantiate

from ms_detr.recipes import (
    after_cross_attention_with_own_heads,
    at_the_output,
    at_the_output_self_first,
    deformable_detr,
    detr,
    group,
    hybrid,
    ms_detr,
    one_stage,
    run,
    swin_tiny,
    with_masks,
)

from ..modeling.support import make_batch, rooted


@pytest.mark.parametrize(
    "implementation",
    [after_cross_attention_with_own_heads, at_the_output, at_the_output_self_first],
)
def test_heads_of_a_tap_are_the_hosts(implementation):
    """Softmax over the classes and nothing, on DETR."""
    torch.manual_seed(0)
    model = instantiate(rooted(ms_detr(detr(deformable_detr()), implementation)))
    losses = model(make_batch())
    assert losses["o2m/loss_class/0"].isfinite()


@pytest.mark.parametrize("own", [True, False])
def test_heads_of_one_to_many_supervision(own):
    """They learn from it alone where they are its own; shared, those of the layers learn."""
    torch.manual_seed(0)
    arguments = (after_cross_attention_with_own_heads,) if own else ()
    model = instantiate(rooted(ms_detr(deformable_detr(), *arguments)))
    with torch.no_grad():  # the last layers of box heads are zero, and what lies before learns not
        for name, parameter in model.named_parameters():
            if "box_head" in name:
                parameter.normal_(std=0.1)
    losses = model(make_batch())
    sum(loss for name, loss in losses.items() if name.startswith("o2m/")).backward()
    heads = {
        name: parameter.grad is not None and bool(parameter.grad.any())
        for name, parameter in model.named_parameters()
        if name.startswith("decoder.") and "_head" in name
    }
    of_tap = {name for name in heads if "tap" in name}
    assert bool(of_tap) == own
    learnt = {name for name, learns in heads.items() if learns}
    assert learnt == (of_tap if own else {*heads})


def test_own_box_heads_start_where_the_layers_do():
    """References that are points say nothing of a size: both begin with the same one."""
    host = one_stage(deformable_detr(), box_refinement=True)
    model = instantiate(rooted(ms_detr(host, after_cross_attention_with_own_heads)))
    decoder = model.decoder
    first, of_tap = decoder.box_heads[0], decoder.tap_box_heads["cross_attention"][0]
    assert first is not of_tap
    for head in (first, of_tap):
        assert head[-1].bias.tolist() == [0.0, 0.0, -2.0, -2.0]
    assert not decoder.tap_box_heads["cross_attention"][1][-1].bias.any()


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
