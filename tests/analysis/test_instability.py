"""Matches of checkpoints, and how many change."""

import pytest
import torch

from ms_detr.analysis import Sample, instability, matches
from ms_detr.engine.archive import write_checkpoint
from ms_detr.engine.averaging import checkpoints_of, newest_of
from ms_detr.errors import ConfigError


def test_instability_by_hand():
    before = [torch.tensor([0, -1, 1, -1]), torch.tensor([-1, -1])]
    after = [torch.tensor([-1, 0, 1, -1]), torch.tensor([-1, 0])]
    assert instability(before, after) == 1.5
    assert instability(before, before) == 0


@pytest.mark.parametrize("name", ["ms_detr", "family/align", "family/group"])
def test_matches_are_those_of_the_last_layer(tiny, name):
    model, every = tiny(f"demo/{name}.py")
    for inputs in every:
        sample = Sample.of(model, inputs)
        with torch.no_grad():
            made = model.forward_tensors(sample.pixels, sample.padding_mask, sample.targets)
            found = model.criterion.assign(made, sample.targets)["o2o"]
        expected = [-1] * 20
        for g in range(len(sample.boxes)):
            for slot in range(found.query.shape[3]):
                if found.valid[-1, 0, g, slot]:
                    expected[int(found.query[-1, 0, g, slot])] = g
        assert matches(model, sample).tolist() == expected
        assert sum(g >= 0 for g in expected) == len(sample.boxes)


def test_a_model_without_one_to_one_term(tiny):
    model, (inputs,) = tiny("demo/ms_detr.py", images=1)
    model.criterion.terms["mine"] = model.criterion.terms.pop("o2o")
    with pytest.raises(ConfigError, match="the term 'o2o' with the source 'decoder'"):
        matches(model, Sample.of(model, inputs))


def test_checkpoints_in_order(tmp_path):
    """By iteration; the final one stands for a periodic one of the same iteration."""
    for name, iteration in (("model_0000019", 19), ("model_0000009", 9), ("model_final", 19)):
        write_checkpoint(tmp_path / f"{name}.pth", {"model": {}, "iteration": iteration})
    found = {9: tmp_path / "model_0000009.pth", 19: tmp_path / "model_final.pth"}
    assert list(checkpoints_of(tmp_path).items()) == list(found.items())
    assert newest_of(tmp_path, 1) == [found[19]]
