"""The operator's benchmark: what it measures and computes, apart from the machine's speed."""

import math

import pytest
import torch

from ms_detr.benchmarks import im2col, operator
from ms_detr.benchmarks.inputs import CASES, Inputs, make_inputs
from ms_detr.benchmarks.limits import interleaved, measure_retained
from ms_detr.ops import deformable_attention, reference
from tests.ops.inputs import needs_compiled

LIMITS = {"GFLOP/s": math.inf, "memory GB/s": math.inf, "cache GB/s": math.inf}


@pytest.fixture(scope="module")
def decoder() -> Inputs:
    return make_inputs(CASES["decoder 300"])


@pytest.fixture(scope="module")
def encoder() -> Inputs:
    return make_inputs(CASES["encoder"])


def call(inputs, dtype=torch.float32):
    typed = inputs.to("cpu", dtype)
    return operator.Call(deformable_attention, typed, ("value", "locations", "weights"))


@pytest.mark.parametrize(
    ("limit", "dtype", "backward", "microseconds"),
    [
        # An H200 copies 4300 GB/s, its 132 first caches give 33454 GB/s: worked out by hand.
        ({"memory GB/s": 4300}, torch.float32, False, 18.5),
        ({"memory GB/s": 4300}, torch.bfloat16, False, 13.2),
        ({"cache GB/s": 33454}, torch.float32, False, 43.5),
        ({"cache GB/s": 33454}, torch.bfloat16, False, 21.8),
        ({"cache GB/s": 33454}, torch.float32, True, 4 * 43.5),
        ({"cache GB/s": 33454}, torch.bfloat16, True, 3 * 43.5),
        ({"GFLOP/s": 50_000}, torch.float32, False, 14.6),
        ({"memory GB/s": 4300, "cache GB/s": 33454}, torch.float32, False, 43.5),
    ],
)
def test_bound_of_the_encoder(encoder, limit, dtype, backward, microseconds):
    milliseconds = operator.bound(call(encoder, dtype), backward, LIMITS | limit)
    assert milliseconds * 1e3 == pytest.approx(microseconds, rel=0.01)


def test_several_images_are_measured_on_a_gpu():
    assert "encoder, 2 images" not in operator.cases_for("cpu")
    assert operator.cases_for("cuda") == list(CASES)
    assert make_inputs(CASES["encoder, 2 images"]).value.shape[0] == 2


@needs_compiled
def test_rows_of_an_entry(decoder):
    goals = {"forward": (1.5, 2.5)}
    entry = operator.Entry(
        reference.deformable_attention, deformable_attention, operator.GIVEN, torch.bfloat16, goals
    )
    forward, both = operator.compare(entry, decoder, "cpu", dict.fromkeys(LIMITS, 1.0), 1)
    assert (forward["floor"], forward["target"], both["floor"]) == (1.5, 2.5, None)
    assert 0 < forward["difference"] < 1e-2
    # What stays is the output, in bfloat16.
    assert both["retained MB"] == pytest.approx(300 * 256 * 2e-6)
    assert both["baseline retained MB"] > 15 * both["retained MB"]


@needs_compiled
def test_wrong_results_are_not_measured(decoder):
    def wrong(value, shapes, locations, weights):
        return deformable_attention(value, shapes, locations, weights) * 1.001

    entry = operator.Entry(wrong, deformable_attention, operator.GIVEN)
    with pytest.raises(ValueError, match=r"wrong in torch.float32 differs .* by 1.0e-03"):
        operator.compare(entry, decoder, "cpu", LIMITS, 1)


@needs_compiled
def test_without_the_yardstick_the_rest_is_measured(monkeypatch):
    monkeypatch.setattr(
        operator, "entries_for", lambda device: operator.ENTRIES | operator.ORIGINAL
    )
    monkeypatch.setattr(im2col, "why_not", lambda: "no ninja")
    result = operator.compare_operator("cpu", ["decoder 300"], ["operator", "original"], rounds=1)
    assert result["left out"] == {"original": "no ninja"}
    assert {row["entry"] for row in result["rows"]} == {"operator"}


def test_the_original_scheme_is_for_gpus():
    assert operator.entries_for("cuda").keys() - operator.entries_for("cpu") == {
        "original",
        "original, ours bfloat16",
        "original layer, ours fused",
    }


def test_malloc_is_pinned_where_all_variables_are_set(monkeypatch):
    for name in operator.MALLOC:
        assert operator.machine("cpu")["malloc"] == "default"
        monkeypatch.setenv(name, "1")
    assert operator.machine("cpu")["malloc"] == "pinned"


def test_turns_alternate_and_the_first_does_not_count():
    order = []
    times = interleaved([lambda: order.append("a"), lambda: order.append("b")], "cpu", 2)
    assert order == ["a", "b"] * 3
    assert [len(seconds) for seconds in times] == [2, 2]


def test_retained_memory_is_output_and_what_is_saved():
    x = torch.ones(1000, requires_grad=True)
    y = torch.ones(1000, requires_grad=True)
    assert measure_retained(lambda: x * y, (x, y)) == pytest.approx(4e-3)  # the output
    assert measure_retained(lambda: x * y, (x,)) == pytest.approx(8e-3)
    # exp saves its result, which counts once, and views of it do not count again.
    assert measure_retained(lambda: x.exp().view(10, 100) * y.view(10, 100), (x, y)) == (
        pytest.approx(8e-3)
    )
