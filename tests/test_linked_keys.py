"""A model's own keys and what its parts were built with."""

import pytest
from omegaconf import OmegaConf
from torch import nn

from ms_detr.config import load
from ms_detr.errors import ConfigError
from ms_detr.linked_keys import check_linked_keys

from .modeling.support import ROOT, SMALL, make_batch, make_model


def places(key, config=SMALL):
    """Where below the model a config has `key`."""
    cfg = load(ROOT / config)

    def walk(node, prefix):
        for name, child in node.items_ex(resolve=False):
            path = f"{prefix}.{name}"
            if OmegaConf.is_dict(child):
                yield from walk(child, path)
            elif name == key and path != f"model.{key}":
                yield path

    return list(walk(cfg.model, "model"))


OTHER = {
    "num_classes": 7,
    "num_queries": 13,
    "embed_dim": 128,
    "num_heads": 2,
    "feedforward_dim": 48,
    "dropout": 0.25,
}
OWN = ("num_heads", "feedforward_dim", "dropout")  # a part may have a value of its own
SHARED = [(key, path) for key in OTHER if key not in OWN for path in places(key)]


@pytest.mark.parametrize(("key", "path"), SHARED)
def test_a_part_that_differs_from_the_models_key(key, path):
    with pytest.raises(ValueError, match=rf"model\.{key}\b"):
        make_model(f"{path}={OTHER[key]}")


@pytest.mark.parametrize(("key", "value"), OTHER.items())
def test_one_key_sets_every_part(key, value):
    assert places(key)
    model = make_model(f"model.{key}={value}")
    assert all(loss.isfinite() for loss in model(make_batch()).values())


@pytest.mark.parametrize("override", ["res4=96", "res3=160", "res9=160"])
def test_channels_must_be_those_of_the_backbone(override):
    name = override[:4]
    added = "+" if name == "res9" else ""  # a fourth map, for the fourth level
    with pytest.raises(ValueError, match=rf"model\.neck\.in_channels .*'{name}'.*res2") as error:
        make_model(f"{added}model.neck.in_channels.{override}")
    if not added:  # what it advises is right
        make_model(str(error.value).split("'")[-2])


def test_a_module_may_tell_more_than_the_models_keys():
    """A new part declares what it likes; only keys of the model are compared."""

    class Part(nn.Module):
        def built_with(self):
            return {"embed_dim": 8, "num_levels": 3}

    model = nn.Sequential(Part())
    check_linked_keys(model, {"embed_dim": 8}, {"dropout": 0.1})
    with pytest.raises(ConfigError, match=r"model\.embed_dim is 16, but the Part .* built with 8"):
        check_linked_keys(model, {"embed_dim": 16}, {})


def test_a_group_whose_class_is_given_by_name():
    group = "{_target_: ms_detr.variants.group.FurtherGroups, num_groups: 3, num_queries: 5}"
    cfg = load(ROOT / SMALL, [f"+model.groups.more={group}"])
    assert cfg.model.query_initializer.extra_queries == [10]
