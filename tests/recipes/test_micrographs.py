"""The recipes for blood cells and nuclei."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from ms_detr.config import load
from ms_detr.engine.building import build
from ms_detr.errors import ConfigError
from ms_detr.recipes import ms_detr
from ms_detr.recipes.micrographs import bccd, nuclei

BASELINE = "bccd/deformable_detr.py"
FAMILY = sorted((Path(__file__).parents[2] / "configs/bccd/family").glob("*.py"))
# What mixed supervision may change.
METHOD = (
    "decoder.layer.order", "decoder.layer.taps", "decoder.tap_heads", "criterion.terms.o2m",
    "criterion.terms.encoder.assigner", "criterion.terms.o2o.losses.class.weight",
)  # fmt: skip
MIXED = ("ms_detr_published", "ms_detr_balanced", "ms_detr_normalised", "ms_detr_fading")
ABLATIONS = ("order_only", "ms_detr_a", "ms_detr_b", "ms_detr_d", "ms_detr_own_heads")


def without_the_method(cfg):
    cfg.train.output_dir = None
    for key in METHOD:
        parent, _, name = key.rpartition(".")
        if (at := OmegaConf.select(cfg.model, parent)) is not None:
            at.pop(name, None)
    return cfg


def test_a_method_that_is_not_there():
    with pytest.raises(ConfigError, match="no method 'dab_dino'; choose from two_stage"):
        bccd("dab_dino", "x")


@pytest.mark.parametrize(
    ("folder", "other"),
    [
        *(("bccd", name) for name in (*MIXED, *ABLATIONS)),
        *(("nuclei", name) for name in MIXED if name != "ms_detr_balanced"),
        ("nuclei", "ms_detr_published_o2m_masks"),
    ],
)
def test_nothing_but_the_method_differs(folder, other):
    mine, others = load(f"{folder}/deformable_detr.py"), load(f"{folder}/{other}.py")
    assert without_the_method(mine) == without_the_method(others)


@pytest.mark.parametrize(
    ("name", "source", "cross_first", "heads"),
    [
        ("published", "decoder.cross_attention", True, {}),
        ("a", "decoder.ffn", False, {"ffn": {"class_head"}}),
        ("b", "decoder.ffn", True, {"ffn": {"class_head"}}),
        ("d", "decoder.self_attention", False, {}),
        (
            "own_heads", "decoder.cross_attention", True,
            {"cross_attention": {"class_head", "box_head"}},
        ),
    ],
)  # fmt: skip
def test_where_one_to_many_supervision_reads_the_queries(name, source, cross_first, heads):
    cfg = load(f"bccd/ms_detr_{name}.py")
    assert cfg.train.output_dir == f"output/bccd/ms_detr_{name}"
    assert cfg.model.criterion.terms.o2m.source == source
    order = ["cross_attention", "self_attention", "ffn"]
    assert (cfg.model.decoder.layer.order == order) == cross_first
    own = cfg.model.decoder.get("tap_heads") or {}
    found = {tap: {*each} - {"_target_"} for tap, each in own.items() if tap != "_target_"}
    assert found == heads


@pytest.mark.parametrize("path", FAMILY, ids=lambda path: path.stem)
def test_a_config_of_the_family_is_the_method_of_its_name(path):
    name = path.stem.removeprefix("ms_detr_")
    mixed = ms_detr if path.stem.startswith("ms_detr_") else None
    expected = bccd(name, f"family/{path.stem}", mixed)
    cfg = load(f"bccd/family/{path.name}")
    assert [cfg.model, cfg.dataloader, cfg.train, cfg.optimizer, cfg.lr_multiplier] == [*expected]


@pytest.mark.parametrize("name", [path.stem for path in FAMILY if "ms_detr" not in path.stem])
def test_nothing_but_mixed_supervision_differs_in_the_family(name):
    alone, mixed = (load(f"bccd/family/{prefix}{name}.py") for prefix in ("", "ms_detr_"))
    assert alone.train.output_dir != mixed.train.output_dir
    terms = mixed.model.criterion.terms
    assert terms.o2m.weight == 1.0 and terms.o2o.losses["class"].weight == 1.0
    assert without_the_method(alone) == without_the_method(mixed)


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
