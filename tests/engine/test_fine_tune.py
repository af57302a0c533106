"""Starting from the weights of a model with other classes, queries or parts."""

import copy
import logging

import pytest
import torch
from detectron2.config import instantiate

from ms_detr.engine import read_checkpoint
from ms_detr.engine.fine_tune import fine_tune, rows_of
from ms_detr.errors import CheckpointError, ConfigError
from ms_detr.recipes import deformable_detr, group_two_stage
from ms_detr.structures import Rows

from ..modeling.support import SMALLER, make_model, rooted
from .test_classes import change, of
from .test_run import curve

THEIRS, OURS = ["cat", "dog", "cow"], ["cow", "owl", "cat", "bee"]
FAMILY = ("model.encoder.num_layers=1", "model.decoder.num_layers=2")


def make(classes, *overrides, config="configs/demo/ms_detr.py", seed=0):
    return make_model(f"model.num_classes={classes}", *FAMILY, *overrides, config=config, seed=seed)


def tuned(tmp_path, before, after, theirs=THEIRS, ours=OURS):
    """A model's state before and after it was tuned from another's, and that other's."""
    torch.save(before.state_dict(), tmp_path / "weights.pth")
    fresh = {name: tensor.clone() for name, tensor in after.state_dict().items()}
    fine_tune(after, str(tmp_path / "weights.pth"), theirs, ours)
    return fresh, after.state_dict(), before.state_dict()


@pytest.mark.parametrize(
    ("config", "behind"),
    [("configs/demo/ms_detr.py", 0), ("configs/demo/family/dino.py", 0),
     ("configs/demo/family/detr.py", 1), ("configs/demo/family/dn.py", 0)],
)  # fmt: skip
def test_classes_keep_their_rows_by_name(tmp_path, config, behind, caplog):
    """``behind``: rows of a class head behind those of the classes."""
    caplog.set_level(logging.INFO, "ms_detr")
    before, after = make(3, config=config, seed=1), make(4, config=config, seed=2)
    fresh, found, given = tuned(tmp_path, before, after)
    checked = 0
    for name, tensor in found.items():
        objectness = name.startswith("query_initializer") and "dino" not in config
        if "class_head" in name and not objectness:
            pairs, tail = {0: 2, 2: 0}, behind
        elif name.endswith("embedding.weight") and name.startswith("groups"):
            pairs, tail = {0: 2, 2: 0}, 1
        elif "class_head" in name:  # by number: the first is the objectness
            pairs, tail = {0: 0, 1: 1, 2: 2}, 0
        else:
            assert torch.equal(tensor, given[name]), name
            continue
        checked += 1
        for row in range(4):
            wanted = given[name][pairs[row]] if row in pairs else fresh[name][row]
            assert torch.equal(tensor[row], wanted), (name, row)
        if tail:
            assert torch.equal(tensor[-1], given[name][-1]), name
    assert checked >= 4
    assert "2 of 4 classes are known to the weights (cow, cat)" in caplog.text


def test_other_queries_and_another_backbone(tmp_path, caplog):
    caplog.set_level(logging.INFO, "ms_detr")
    config = "configs/demo/family/ms_detr_dino.py"
    before = make(3, "model.num_queries=12", config=config, seed=1)
    after = make(
        3, "model.num_queries=20", "model.backbone.widths=[16,32,64,128]",
        "model.neck.in_channels={res2:32,res3:64,res4:128}", config=config, seed=2,
    )  # fmt: skip
    fresh, found, given = tuned(tmp_path, before, after, THEIRS, THEIRS)
    name = "query_initializer.content"
    assert torch.equal(found[name][:12], given[name]) and torch.equal(
        found[name][12:], fresh[name][12:]
    )
    for part, expected in (("backbone.", fresh), ("encoder.", given), ("decoder.", given)):
        assert all(torch.equal(found[x], expected[x]) for x in found if x.startswith(part))
    for text in ("1 tensors in part (query_initializer.content)", "tensors new, of another shape"):
        assert text in caplog.text


def test_parts_that_one_of_them_lacks_are_named(tmp_path, caplog):
    caplog.set_level(logging.INFO, "ms_detr")
    before = make(3, "model.criterion.terms.o2m=null", seed=1)
    _, found, given = tuned(tmp_path, before, make(3, seed=2), THEIRS, THEIRS)
    taps = [name for name in found if ".taps." in name]
    assert taps and not set(taps) & set(given)
    assert f"{len(taps)} tensors new ({taps[0]}" in caplog.text
    _, found, given = tuned(tmp_path, make(3, seed=1), before, THEIRS, THEIRS)
    assert f"{len(taps)} tensors in the weights alone ({taps[0]}" in caplog.text


@pytest.mark.parametrize("names", [(THEIRS, []), ([], OURS), ([], [])])
def test_without_names_class_heads_start_anew(tmp_path, names):
    before, after = make(3, seed=1), make(4, seed=2)
    fresh, found, _ = tuned(tmp_path, before, after, *names)
    for name in found:
        if name.startswith("decoder.class_heads"):
            assert torch.equal(found[name], fresh[name])


def test_further_groups_keep_their_objectness(tmp_path):
    """What ranks the proposals of each group is a row of its own, as that of the first."""
    model = group_two_stage(deformable_detr(), num_groups=3)
    small = ("model.num_queries=5", "model.backbone.depth=50", *SMALLER[:3], *FAMILY)
    names = [*THEIRS[1:], THEIRS[0]]
    before, after = (
        instantiate(rooted(copy.deepcopy(model), [*small, "model.num_classes=3"])) for _ in range(2)
    )
    _, found, given = tuned(tmp_path, before, after, THEIRS, names)
    heads = [name for name in found if "proposers" in name and "class_head" in name]
    assert len(heads) == 4
    assert all(torch.equal(found[name], given[name]) for name in heads)


def test_heads_that_become_one(tmp_path, caplog):
    caplog.set_level(logging.WARNING, "ms_detr")
    before = make(3, seed=1)
    with torch.no_grad():
        for number, head in enumerate(before.decoder.box_heads):
            head[-1].bias.fill_(number)
    after = make(3, "+model.decoder.share_heads=true", seed=2)
    _, found, _ = tuned(tmp_path, before, after, THEIRS, THEIRS)
    assert (found["decoder.box_heads.0.4.bias"] == 1).all()
    assert "the model shares what differs in the weights (decoder.box_heads.1" in caplog.text


def test_more_names_than_rows(tmp_path):
    with pytest.raises(CheckpointError, match="has 3 rows in the weights, for 5 classes"):
        tuned(tmp_path, make(3), make(4), [*THEIRS, "hen", "sow"], OURS)


def test_fine_tuning_needs_weights(train):
    with pytest.raises(
        ConfigError, match=r"train\.init_checkpoint, which is empty: name the weights"
    ):
        train("out", "+train.fine_tune=true")


def test_weights_of_something_else(tmp_path):
    torch.save({"fc.weight": torch.zeros(3)}, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match="has nothing that fits the model"):
        fine_tune(make(3), str(tmp_path / "weights.pth"))


def test_rows_are_told_by_the_parts():
    rows = rows_of(make_model(*SMALLER, config="configs/demo/family/dab_deformable.py"))
    assert rows["query_initializer.anchors.sizes"] is Rows.NUMBERED
    assert rows["query_initializer.content"] is Rows.NUMBERED
    assert rows["decoder.class_heads.0.weight"] is Rows.CLASSES


def other_classes(content):
    content["categories"].append({"id": 9, "name": "ring"})
    for category in content["categories"]:
        category["name"] = {"square": "disc"}.get(category["name"], category["name"])


def test_a_run_on_other_classes(train, data, tmp_path):
    train("first", "train.max_iter=3")
    weights = f'train.init_checkpoint="{tmp_path}/first/model_final.pth"'
    folder = change(data, tmp_path / f"other_{tmp_path.name}", other_classes)
    changes = [weights, "model.num_classes=3", *of(folder)]
    with pytest.raises(
        ValueError, match=r"'disc', 'ring' only in .*; train\.fine_tune=true starts"
    ):
        train("second", *changes)
    train("second", "+train.fine_tune=true", "train.checkpoint_epochs=1", *changes)
    log = (tmp_path / "second" / "log.txt").read_text()
    assert "1 of 3 classes are known to the weights (bar)" in log
    assert "train.fine_tune: from " in log and "new, of another shape (class_head.weight" in log
    checkpoint = read_checkpoint(tmp_path / "second" / "model_final.pth")
    assert checkpoint["classes"] == ["disc", "bar", "ring"]
    first = curve(tmp_path / "second")
    # Once it has checkpoints of its own it goes on from these.
    (tmp_path / "second" / "model_final.pth").unlink()
    train("second", "--resume", "+train.fine_tune=true", *changes)
    log = (tmp_path / "second" / "log.txt").read_text()
    assert log.count("train.fine_tune: from ") == 1 and "resuming from" in log
    assert curve(tmp_path / "second") == first
