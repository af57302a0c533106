"""The README's figure: what it says is what the configs do."""

import re
import sys

import draw_method
import matplotlib

from ms_detr.config import load
from ms_detr.supervision import AnchorHungarianAssigner


def test_it_says_what_the_recipe_does(tmp_path, monkeypatch):
    path = tmp_path / "method.svg"
    monkeypatch.setattr(sys, "argv", ["draw_method.py", str(path)])
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        draw_method.main()
    text = " ".join(re.findall(r">([^<>]+)</(?:text|tspan)>", path.read_text()))
    ms_detr = load("ms_detr/ms_detr_r50_300q_12ep.py").model
    baseline = load("deformable_detr/deformable_detr_r50_300q_12ep.py").model
    terms = ms_detr.criterion.terms
    assert set(re.findall(r"term (\w+)", text)) == set(terms) - {"_target_"}
    assert f"decoder layer × {ms_detr.decoder.num_layers}" in text
    assert f"up to {terms.o2m.assigner.k} queries" in text
    assert "cross-attention first: MS-DETR's order" in text
    orders = [model.decoder.layer.order for model in (ms_detr, baseline)]
    assert [order.index("cross_attention") for order in orders] == [0, 1]
    own, other = (x.criterion.terms.o2o.losses["class"].weight for x in (ms_detr, baseline))
    assert f"classes weigh {own:.0f} instead of {other:.0f}" in text
    assert "matched on anchors, not on predicted boxes" in text
    assert terms.encoder.assigner["_target_"] is AnchorHungarianAssigner
    # The heads of the tap are those of the output.
    assert "shared weights" in text and "tap_heads" not in ms_detr.decoder
