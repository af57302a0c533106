"""Sources of predictions, and their text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ms_detr.errors import ConfigError
from ms_detr.modeling import Groups
from ms_detr.structures import Predictions, PredictionSet, Source
from ms_detr.variants.hybrid import HybridQueries

from .layers.support import random

NAMES = st.from_regex(r"[a-z_][a-z_0-9]*", fullmatch=True).filter(
    lambda name: name not in ("decoder", "encoder")
)


@given(st.sampled_from(["decoder", "encoder"]), NAMES | st.just(""), NAMES | st.just(""))
def test_a_source_is_what_it_is_written_as(place, group, tap):
    source = Source(place, group, tap)
    assert Source.of(str(source)) == Source.of(source) == source


def test_texts():
    assert Source.of("hybrid.decoder.ffn") == Source("decoder", "hybrid", "ffn")
    assert Source.of("decoder.cross_attention") == Source("decoder", tap="cross_attention")
    assert Source.of("group.encoder") == Source("encoder", "group")
    assert Source.of("atss") == Source("atss")  # a head outside the decoder


@pytest.mark.parametrize(
    "text",
    ["", "hybrid.", "decoder.", ".decoder", "a.b", "a.b.decoder", "decoder.ffn.x", "a.decoder.b.c"],
)
def test_other_texts(text):
    with pytest.raises(ConfigError, match="is no source of predictions: write decoder, encoder"):
        Source.of(text)


def test_predictions_are_found_by_both():
    made = PredictionSet(random(1, 1, 2, 3), random(1, 1, 2, 4))
    predictions = Predictions({"hybrid.decoder": made})
    assert predictions["hybrid.decoder"] is predictions[Source("decoder", "hybrid")] is made
    assert "hybrid.decoder" in predictions and "decoder" not in predictions
    assert list(predictions) == [Source("decoder", "hybrid")]


@pytest.mark.parametrize("name", ["decoder", "encoder"])
def test_a_group_is_not_called_after_a_place(name):
    with pytest.raises(ConfigError, match=f"model.groups.{name}: '{name}' is a place"):
        Groups(**{name: HybridQueries(3)})
