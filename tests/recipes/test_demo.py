"""The demo's recipes."""

import pytest

from ms_detr.errors import ConfigError
from ms_detr.recipes.demo import demo


def test_a_method_that_is_not_there():
    with pytest.raises(
        ConfigError, match="no method 'ms_detr_dino'; choose from two_stage, .*dino"
    ):
        demo("ms_detr_dino")
