"""Group DETR: losses are averages over the groups, whatever their number."""

import dataclasses

import pytest
import torch
from detectron2.config import instantiate

from ms_detr.config import load
from ms_detr.recipes import deformable_detr, group, ms_detr, plus_plus
from ms_detr.supervision import Criterion, Terms

from ..modeling.support import ROOT, SMALLER, make_batch, make_input, make_model, rooted

CONFIG = "configs/ms_detr/ms_detr_group_pp_r50_300q_12ep.py"
TINY = (*SMALLER, "model.num_classes=6", "model.dropout=0")


def predict(model):
    """Predictions and targets of a batch, in training."""
    images, mask = model.preprocess(make_batch())
    targets = model.targets(make_batch(), tuple(images.shape[-2:]))
    return model.forward_tensors(images, mask, targets), targets


def take_weights(alone, joined):
    """Those of a model with groups, whose primary queries come first."""
    own = alone.state_dict()
    theirs = joined.state_dict()
    alone.load_state_dict({k: v[: len(own[k])] if v.dim() else v for k, v in theirs.items()})


@pytest.mark.parametrize("num_groups", [2, 4])
def test_losses_are_averages_over_the_groups(num_groups):
    model = make_model(*TINY, f"model.groups.group.num_groups={num_groups}", config=CONFIG)
    predictions, targets = predict(model)
    found = model.criterion(predictions, targets)
    term = Criterion(Terms(o2o=model.criterion.terms["o2o"]))
    further = predictions["group.decoder"]
    every = [dataclasses.replace(predictions["decoder"], peers=1)]
    size = 12
    for start in range(0, (num_groups - 1) * size, size):
        logits, boxes = (x[:, :, start : start + size] for x in (further.logits, further.boxes))
        every.append(dataclasses.replace(every[0], logits=logits, boxes=boxes))
    assert further.logits.shape[2] == (num_groups - 1) * size
    each = [term({"decoder": made}, targets) for made in every]
    for name in each[0]:
        together = found[name] + found[name.replace("o2o", "group")]
        average = sum(losses[name] for losses in each) / num_groups
        torch.testing.assert_close(together, average, rtol=1e-5, atol=1e-6)


def test_mixed_supervision_weighs_as_much_less():
    """With the same weights the primary queries' terms are a quarter of those without groups."""
    alone = rooted(ms_detr(plus_plus(deformable_detr())), TINY)
    joined = rooted(group(ms_detr(plus_plus(deformable_detr())), num_groups=4), TINY)
    torch.manual_seed(0)
    joined = instantiate(joined)
    alone = instantiate(alone)
    take_weights(alone, joined)
    (few, targets), (many, _) = predict(alone), predict(joined)
    expected, found = alone.criterion(few, targets), joined.criterion(many, targets)
    for name, value in expected.items():
        share = 1.0 if name.startswith("encoder/") else 0.25
        torch.testing.assert_close(found[name], share * value, rtol=1e-4, atol=1e-5)


def test_null_on_the_command_line_is_the_model_without_groups():
    """One key: its term, its queries and its share of the others' losses go with it."""
    without = make_model(*TINY, "model.groups.group=null", config=CONFIG)
    plain = make_model(*TINY, config="configs/ms_detr/ms_detr_pp_r50_300q_12ep.py")
    assert without.state_dict().keys() == plain.state_dict().keys()
    plain.load_state_dict(without.state_dict())
    losses = [model(make_batch()) for model in (without, plain)]
    assert losses[0].keys() == losses[1].keys()
    for name, value in losses[1].items():
        assert torch.equal(losses[0][name], value), name


def test_all_follows_the_number_of_groups():
    with torch.device("meta"):
        path = ROOT / "configs/group_detr/group_dino_r50_4scale_12ep.py"
        model = instantiate(load(path, ["model.groups.group.num_groups=3"]).model)
    assert model.query_initializer.extra_queries == model.groups.extra_queries["group"] == 1800
    assert len(model.query_initializer.get_submodule("proposers")) == 2


def test_a_key_behind_a_link_is_not_set_in_two_places():
    """It would change the primary queries' term as well."""
    override = "model.criterion.terms.group.losses.class.weight=3"
    message = r"terms\.group\.losses is a link: set model\.criterion\.terms\.o2o\.losses\.class"
    for text in (override, "+model.criterion.terms.group.losses.class.weight=3"):
        with pytest.raises(ValueError, match=message):
            load(ROOT / CONFIG, [text])
    with pytest.raises(ValueError, match=r"group\.losses is a link: set .*o2o\.losses\.x, which"):
        load(ROOT / CONFIG, ["+model.criterion.terms.group.losses.x=1"])
    with pytest.raises(ValueError, match="extra_queries follows from other keys .*: set it"):
        load(ROOT / CONFIG, ["model.query_initializer.extra_queries.0=5"])
    cfg = load(ROOT / CONFIG, [override.replace("group", "o2o")])
    assert cfg.model.criterion.terms.group.losses["class"].weight == 3


def test_images_of_few_tokens_weigh_as_any():
    """Where the primary queries take all tokens there is no further group to be averaged with."""
    batch = [make_input(32, 32, labels=(1, 2), seed=1), make_input(32, 24, seed=2)]
    overrides = (*TINY, "model.num_queries=100")
    grouped = make_model(*overrides, config=CONFIG)
    alone = make_model(*overrides, "model.groups.group=null", config=CONFIG)
    take_weights(alone, grouped)
    losses = [model(batch) for model in (grouped, alone)]
    for name, value in losses[1].items():
        torch.testing.assert_close(losses[0][name], value)


def test_no_groups_at_all():
    with torch.device("meta"):
        plain = "configs/ms_detr/ms_detr_pp_r50_300q_12ep.py"
        model = instantiate(load(ROOT / plain, ["model.groups=null"]).model)
    assert model.query_initializer.extra_queries == 0
