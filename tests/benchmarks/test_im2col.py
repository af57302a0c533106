"""The yardstick after the original CUDA scheme, as far as it goes without a GPU.

Its kernels: tests/ops/test_emulated_cuda.py and tests/ops/test_cuda.py.
"""

import pytest
import torch
from torch.utils import cpp_extension

from ms_detr.benchmarks import im2col
from ms_detr.ops import reference
from tests.ops.inputs import make_fused

LEVELS = ((7, 9), (3, 4), (1, 1))


def test_shapes_and_first_cells():
    shapes, starts = im2col.on_device(LEVELS, torch.device("cpu"))
    assert shapes.tolist() == [[7, 9], [3, 4], [1, 1]]
    assert starts.tolist() == [0, 63, 75]
    assert shapes.dtype == starts.dtype == torch.int64


@pytest.mark.parametrize("terms", [2, 4])
def test_locations_are_those_of_the_operator(terms):
    _, shapes, references, offsets, _ = make_fused(LEVELS, terms)
    torch.testing.assert_close(
        im2col.sampling_locations(references, offsets, torch.tensor(shapes)),
        reference.sampling_locations(references, offsets, shapes),
    )


@pytest.fixture
def nothing_tried():
    """As if nobody had asked before."""
    im2col.load.cache_clear()
    im2col.why_not.cache_clear()
    yield
    im2col.why_not.cache_clear()


def test_a_missing_toolkit_is_named(nothing_tried, monkeypatch):
    monkeypatch.setattr("torch.version.cuda", None)
    assert im2col.why_not() == "the installed PyTorch has no CUDA"


def test_missing_ninja_is_named(nothing_tried, monkeypatch, tmp_path):
    monkeypatch.setattr(im2col, "why_no_toolkit", lambda: "")
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not cpp_extension.is_ninja_available()
    assert im2col.why_not() == "ninja is missing: pip install ninja"
