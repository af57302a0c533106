"""The recipes for blood cells and nuclei."""

import pytest
from omegaconf import OmegaConf

from ms_detr.config import load
from ms_detr.engine.building import build
from ms_detr.errors import ConfigError
from ms_detr.recipes import ms_detr
from ms_detr.recipes.micrographs import bccd, nuclei

BASELINE = "bccd/deformable_detr.py"
# What mixed supervision may change.
METHOD = (
    "decoder.layer.order", "decoder.layer.taps", "criterion.terms.o2m",
    "criterion.terms.encoder.assigner", "criterion.terms.o2o.losses.class.weight",
)  # fmt: skip
MIXED = ("ms_detr_published", "ms_detr_balanced", "ms_detr_normalised", "ms_detr_fading")


def test_a_method_that_is_not_there():
    with pytest.raises(ConfigError, match="no method 'dab_dino'; choose from two_stage"):
        bccd("dab_dino", "x")


@pytest.mark.parametrize(
    ("folder", "other"),
    [
        *(("bccd", name) for name in (*MIXED, "order_only")),
        *(("nuclei", name) for name in MIXED if name != "ms_detr_balanced"),
    ],
)
def test_nothing_but_the_method_differs(folder, other):
    mine, others = load(f"{folder}/deformable_detr.py"), load(f"{folder}/{other}.py")
    for cfg in (mine, others):
        cfg.train.output_dir = None
        for key in METHOD:
            parent, _, name = key.rpartition(".")
            OmegaConf.select(cfg.model, parent).pop(name, None)
    assert mine == others


def test_nuclei_have_masks_and_room_for_many():
    cfg = load("nuclei/deformable_detr.py")
    assert cfg.dataloader.masks and cfg.model.masks is not None
    assert cfg.model.num_queries == cfg.model.postprocess.top_k == 150
    assert cfg.dataloader.evaluator.max_detections == 150
    model, *_ = nuclei("two_stage", "x", ms_detr, mask_terms=("o2o", "o2m"))
    assert all("mask" in model.criterion.terms[name].losses for name in ("o2o", "o2m"))


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
