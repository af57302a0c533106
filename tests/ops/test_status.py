import importlib
import json
from importlib.machinery import EXTENSION_SUFFIXES

import pytest
import torch

from ms_detr.ops import OperatorStatus, build, status

from .inputs import make, make_fused, needs_compiled, results, unfused

# Its name in the package is the function's.
module = importlib.import_module("ms_detr.ops.deformable_attention")


def test_status_names_a_reason_for_what_is_missing():
    state = status()
    assert isinstance(state, OperatorStatus)
    assert {*state.devices, *state.reasons} == {"cpu", "cuda"}
    assert not set(state.devices) & state.reasons.keys()
    assert all(state.reasons.values())
    assert state.compiled is bool(state.devices)
    assert (state.instruction_set in ("avx512", "avx2", "baseline")) is ("cpu" in state.devices)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty place for libraries."""
    monkeypatch.setattr(build, "FOLDER", tmp_path)
    monkeypatch.setattr(build, "REASONS", tmp_path / "build_reasons.json")
    return tmp_path


def test_nothing_compiled(folder):
    state = build.load_libraries()
    assert not state.compiled
    assert state.reasons == {"cpu": "was not compiled", "cuda": "needs the compiled CPU operator"}
    assert state.reason.startswith("cpu: was not compiled; cuda: ")


def test_the_build_leaves_a_reason(folder):
    (folder / "build_reasons.json").write_text(json.dumps({"cpu": "the compiler failed: no g++"}))
    assert build.load_libraries().reasons["cpu"] == "the compiler failed: no g++"
    (folder / "build_reasons.json").write_text("{broken")
    assert build.load_libraries().reasons["cpu"] == "was not compiled"


def test_a_library_of_another_build(folder):
    (folder / f"_C{EXTENSION_SUFFIXES[0]}").write_bytes(b"not a library")
    reason = build.load_libraries().reasons["cpu"]
    assert "compiled for another PyTorch or machine, build it again" in reason


@pytest.fixture
def nothing_compiled(monkeypatch):
    monkeypatch.setattr(module, "_COMPILED", frozenset())
    monkeypatch.setattr(
        module, "STATUS", OperatorStatus((), {"cpu": "no compiler", "cuda": "no compiler"}, "")
    )
    module._warn.cache_clear()
    yield
    module._warn.cache_clear()


def test_pure_torch_stands_in_and_says_so_once(nothing_compiled, caplog):
    inputs = make([(4, 5), (2, 2)])
    for _ in range(2):
        module.deformable_attention(*inputs)
    (message,) = caplog.messages
    assert "many times slower" in message and "no compiler" in message
    assert build.BUILD_COMMAND in message


@needs_compiled
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_both_ways_agree(dtype, monkeypatch):
    shapes = [(4, 5), (2, 2)]
    cases = [
        (module.deformable_attention, make(shapes)),
        (module.fused_deformable_attention, make_fused(shapes, 4)),
    ]
    for function, inputs in cases:
        inputs = [x.to(dtype) if torch.is_tensor(x) else x for x in inputs]
        compiled = results(function, *inputs)
        with monkeypatch.context() as patch:
            patch.setattr(module, "_COMPILED", frozenset())
            pure = results(function, *inputs)
        for one, other in zip(compiled, pure, strict=True):
            assert one.dtype == other.dtype == dtype
            # Both are float32 rounded once, perhaps to neighbours.
            tolerance = 1e-10 if dtype == torch.float64 else torch.finfo(dtype).eps
            torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("gradient", [True, False])
def test_locations_are_never_computed_in_half_precision(gradient, monkeypatch):
    """On a large map, with what falls back: no kernel, or references that learn."""
    value, shapes, references, offsets, logits = (
        x.bfloat16() if torch.is_tensor(x) else x for x in make_fused([(100, 167)], 2, queries=50)
    )
    if not gradient:
        monkeypatch.setattr(module, "_COMPILED", frozenset())
    out = module.fused_deformable_attention(
        value, shapes, references.requires_grad_(gradient), offsets, logits
    )
    exact = unfused(value.double(), shapes, *(x.double() for x in (references, offsets, logits)))
    rounding = torch.finfo(torch.bfloat16).eps * exact.abs().max().item()
    torch.testing.assert_close(out.double(), exact, rtol=0, atol=rounding)


def test_a_library_of_an_older_version(monkeypatch):
    monkeypatch.setattr(build, "OPERATORS", ("an_operator_to_come",))
    if "cpu" in status().devices:
        reason = build.load_libraries().reasons["cpu"]
        assert reason == "was compiled from an older ms_detr, build it again"
