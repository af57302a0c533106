"""The recipes for blood cells and nuclei."""

import pytest
from omegaconf import OmegaConf

from ms_detr.config import load
from ms_detr.engine.building import build
from ms_detr.errors import ConfigError
from ms_detr.recipes.micrographs import bccd

BASELINE = "bccd/deformable_detr.py"
METHOD = ("decoder.layer", "criterion.terms")  # what mixed supervision may change


def test_a_method_that_is_not_there():
    with pytest.raises(ConfigError, match="no method 'dab_dino'; choose from two_stage"):
        bccd("dab_dino", "x")


@pytest.mark.parametrize(
    "other", ["ms_detr_published", "ms_detr_balanced", "ms_detr_normalised", "order_only"]
)
def test_nothing_but_the_method_differs(other):
    mine, others = load(BASELINE), load(f"bccd/{other}.py")
    for cfg in (mine, others):
        cfg.train.output_dir = None
        for key in METHOD:
            parent, _, name = key.rpartition(".")
            del OmegaConf.select(cfg.model, parent)[name]
    assert mine == others


def test_weights_of_the_rows():
    """Of one-to-one classification and of one-to-many supervision."""
    expected = {
        "deformable_detr": (2.0, None),
        "order_only": (2.0, None),
        "ms_detr_published": (1.0, 1.0),
        "ms_detr_balanced": (2.0, 0.5),
        "ms_detr_normalised": (2.0, 1.0),
    }
    for name, (one, many) in expected.items():
        terms = load(f"bccd/{name}.py").model.criterion.terms
        assert terms.o2o.losses["class"].weight == one
        assert (terms.get("o2m") and terms.o2m.weight) == many
        by_pairs = many is not None and "objects" in terms.o2m
        assert by_pairs == (name == "ms_detr_normalised")


def test_no_part_of_the_backbone_is_trained():
    model = build(load(BASELINE), "model")
    assert not [p for p in model.backbone.parameters() if p.requires_grad]
    assert any(p.requires_grad for p in model.neck.parameters())


def test_a_method_of_one_map_reads_that_of_stride_16():
    model, *_ = bccd("dab", "x")
    assert dict(model.neck.in_channels) == {"res4": 112}
    assert list(model.backbone.out_features) == ["res4"]
