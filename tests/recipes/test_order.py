"""Whatever the order of two recipes, the model is the same, or one order is refused."""

import itertools

import pytest
from omegaconf import OmegaConf

from ms_detr import recipes
from ms_detr.recipes import deformable_detr

from ..toy_head import toy

METHODS = (
    "plus_plus", "dino", "align", "dab_deformable", "dense", "detr", "conditional", "dab", "smca",
    "smca_multi_scale", "sam_detr", "sam_detr_multi_scale",
)  # fmt: skip
ADDITIONS = (
    "mixed_supervision", "ms_detr", "normalised_ms_detr", "fading_ms_detr", "ia_bce", "varifocal",
    "quality_focal", "hybrid", "group", "group_two_stage", "denoising", "contrastive_denoising",
    "with_masks", "five_scales", "soft_nms",
)  # fmt: skip
RECIPES = {name: getattr(recipes, name) for name in (*METHODS, *ADDITIONS)}
RECIPES |= {
    "one_stage": lambda model: recipes.one_stage(model, box_refinement=True),
    "swin_tiny": lambda model: recipes.swin_tiny(model, recipes.run()),
    "lite0": lambda model: recipes.efficientnet_lite0(model, recipes.run()),
    "co_detr": lambda model: recipes.co_detr(model, heads=(toy,)),
    "co_dino": lambda model: recipes.co_dino(model, heads=(toy,)),
}


# Methods, and losses, of which a model has one: neither order makes sense.
EXCLUSIVE = {
    "mixed_supervision": "fading_ms_detr",
    "ms_detr": "fading_ms_detr",
    "normalised_ms_detr": "fading_ms_detr",
    "plus_plus": "dino align dab_deformable dense detr conditional dab smca smca_multi_scale "
    "sam_detr sam_detr_multi_scale one_stage co_dino",
    "dino": "align dab_deformable dense detr conditional dab smca smca_multi_scale sam_detr "
    "sam_detr_multi_scale denoising one_stage co_dino",
    "align": "dab_deformable dense detr conditional dab smca smca_multi_scale sam_detr "
    "sam_detr_multi_scale varifocal quality_focal denoising contrastive_denoising one_stage "
    "co_dino",
    "dab_deformable": "dense detr conditional dab smca smca_multi_scale sam_detr "
    "sam_detr_multi_scale one_stage co_dino",
    "dense": "conditional dab smca smca_multi_scale sam_detr sam_detr_multi_scale five_scales "
    "one_stage co_detr co_dino",
    "detr": "conditional dab smca smca_multi_scale sam_detr sam_detr_multi_scale ia_bce "
    "varifocal quality_focal five_scales one_stage co_detr co_dino",
    "conditional": "dab smca smca_multi_scale sam_detr sam_detr_multi_scale five_scales "
    "one_stage co_detr co_dino",
    "dab": "smca smca_multi_scale sam_detr sam_detr_multi_scale five_scales one_stage co_detr "
    "co_dino",
    "smca": "smca_multi_scale sam_detr sam_detr_multi_scale five_scales one_stage co_detr co_dino",
    "smca_multi_scale": "sam_detr sam_detr_multi_scale five_scales one_stage co_dino",
    "sam_detr": "sam_detr_multi_scale five_scales one_stage co_detr co_dino",
    "sam_detr_multi_scale": "five_scales one_stage co_dino",
    "ia_bce": "varifocal quality_focal co_dino",
    "varifocal": "quality_focal co_dino",
    "denoising": "contrastive_denoising co_dino",
    "contrastive_denoising": "co_dino",
    "one_stage": "co_dino",
    "swin_tiny": "lite0",
}


def composed(*names):
    """The config of a composition, or None where it is refused."""
    model = deformable_detr()
    for name in names:
        try:
            RECIPES[name](model)
        except ValueError as error:
            assert f"{name}() first" in str(error) or "several maps" in str(error)
            return None
    return OmegaConf.to_container(model, resolve=False)


@pytest.mark.parametrize(("first", "second"), list(itertools.combinations(RECIPES, 2)))
def test_order_does_not_matter_or_is_refused(first, second):
    one, other = composed(first, second), composed(second, first)
    assert one is None or other is None or one == other
    exclusive = second in EXCLUSIVE.get(first, "").split()
    assert (one is None and other is None) == exclusive
