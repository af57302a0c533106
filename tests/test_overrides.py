"""What overrides say, without a config; how they change one is in `test_config.py`."""

import pytest

from ms_detr.cli._arguments import expect_not
from ms_detr.errors import ConfigError
from ms_detr.overrides import values


def test_what_overrides_say_of_each_key():
    said = ["a={b:1,c:{d:2.5}}", "+e.f='x=y'", "~a.b", "train.init_checkpoint=~/a=1.pth", "e.g=''"]
    assert values(said) == {
        "a.b": None,
        "a.c.d": 2.5,
        "e.f": "x=y",
        "train.init_checkpoint": "~/a=1.pth",
        "e.g": "",
    }


@pytest.mark.parametrize("text", ["train.seed=1", "+train.seed=1", "~train.seed", "train={seed:1}"])
def test_a_key_that_an_argument_sets_is_refused_however_it_is_written(text):
    with pytest.raises(ConfigError, match=r"give --seeds instead"):
        expect_not(["train.lr=2", text], {"train.seed": "--seeds"})
