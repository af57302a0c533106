"""The compiled operators on a GPU, against pure torch in float64 on the CPU."""

import os

import pytest
import torch

from ms_detr.benchmarks import im2col
from ms_detr.ops import deformable_attention, fused_deformable_attention, status
from ms_detr.ops import reference as pure_torch

from .inputs import make, make_fused, off_edges, results, unfused

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() or "cuda" not in status().devices,
    reason=f"no GPU, or no operator for it: {status().reasons.get('cuda', '')}",
)
LEVELS = [(7, 9), (3, 4), (1, 1), (2, 5)]
CHANNELS = [1, 5, 16, 24, 32, 64, 80]
TOLERANCES = {
    torch.float64: 1e-10,
    torch.float32: 1e-5,
    torch.float16: 2e-3,
    torch.bfloat16: 2e-2,
}


def assert_close(actual, expected, dtype):
    for one, other in zip(actual, expected, strict=True):
        scale = 1 + (other.abs().max() if other.numel() else 0)
        torch.testing.assert_close(
            one.cpu().double() / scale, other / scale, rtol=0, atol=TOLERANCES[dtype]
        )


def to_gpu(inputs, dtype):
    """Values in `dtype`, the rest as wide as kernels compute."""
    wide = torch.promote_types(dtype, torch.float32)
    value, shapes, *rest = inputs
    return value.to("cuda", dtype), shapes, *(tensor.to("cuda", wide) for tensor in rest)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("channels", CHANNELS)
def test_forward_and_gradients(dtype, channels):
    value, shapes, locations, weights = make(LEVELS, 2, 40, 3, 5, channels, reach=0.3)
    inputs = to_gpu((value, shapes, off_edges(shapes, locations), weights), dtype)
    exact = [x.cpu().double() if torch.is_tensor(x) else x for x in inputs]
    expected = results(pure_torch.deformable_attention, *exact)
    assert_close(results(deformable_attention, *inputs), expected, dtype)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("terms", [2, 4])
def test_fused_forward_and_gradients(dtype, terms):
    value, shapes, references, offsets, logits = to_gpu(
        make_fused(LEVELS, terms, 2, 40, 3, 5, 32), dtype
    )
    actual = results(
        lambda v, o, w: fused_deformable_attention(v, shapes, references, o, w),
        *(value, offsets, logits),
    )
    exact = [x.cpu().double() for x in (value, references, offsets, logits)]
    expected = results(
        lambda v, o, w: unfused(v, shapes, exact[1], o, w), exact[0], exact[2], exact[3]
    )
    assert_close(actual, expected, dtype)


@pytest.mark.parametrize(("batch", "queries"), [(0, 3), (2, 0), (1, 1)])
def test_few_queries_and_images(batch, queries):
    inputs = to_gpu(make(LEVELS, batch, queries, channels=32), torch.float32)
    out, *grads = results(deformable_attention, *inputs)
    assert out.shape == (batch, queries, 64)
    assert all(grad.isfinite().all() for grad in grads)


def test_bad_locations_read_nothing():
    value, shapes, locations, weights = make(LEVELS, queries=4, channels=32)
    for k, bad in enumerate((float("nan"), float("inf"), -float("inf"), 1e30)):
        locations[:, k, :, 0, 0, k % 2] = bad
    far = locations.clone()
    far[:, :, :, 0, 0] = 99.0
    pair = [
        results(deformable_attention, *to_gpu((value, shapes, x, weights), torch.float32))
        for x in (locations, far)
    ]
    for one, other in zip(*pair, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_values_that_do_not_start_on_16_bytes():
    value, shapes, locations, weights = to_gpu(make(LEVELS, channels=32), torch.float16)
    shifted = torch.empty(value.numel() + 1, dtype=value.dtype, device="cuda")[1:].view_as(value)
    shifted.copy_(value)
    torch.testing.assert_close(
        deformable_attention(shifted, shapes, locations, weights),
        deformable_attention(value, shapes, locations, weights),
    )


def test_inputs_with_gaps_in_memory():
    inputs = to_gpu(make(LEVELS, channels=32), torch.float32)
    gaps = [torch.stack((x, x), -1)[..., 0] if torch.is_tensor(x) else x for x in inputs]
    torch.testing.assert_close(deformable_attention(*gaps), deformable_attention(*inputs))


def test_deterministic_mode_refuses_the_backward_pass():
    value, shapes, locations, weights = to_gpu(make(LEVELS), torch.float32)
    out = deformable_attention(value.requires_grad_(), shapes, locations, weights)
    torch.use_deterministic_algorithms(True)
    try:
        with pytest.raises(RuntimeError, match="ms_detr's deformable attention does not have a"):
            out.sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)


def test_nothing_waits_for_the_gpu():
    value, shapes, locations, weights = to_gpu(make(LEVELS, channels=32), torch.float32)
    leaves = [tensor.requires_grad_() for tensor in (value, locations, weights)]
    grad = torch.ones(2, 3, 64, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        out = deformable_attention(value, shapes, locations, weights)
        torch.autograd.grad(out, leaves, grad)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.skipif(
    "PYTORCH_NO_CUDA_MEMORY_CACHING" in os.environ, reason="a capture needs PyTorch's allocator"
)
def test_capture_in_a_graph():
    value, shapes, locations, weights = to_gpu(make(LEVELS, channels=32), torch.float32)
    leaves = [tensor.requires_grad_() for tensor in (value, locations, weights)]
    grad = torch.ones(2, 3, 64, device="cuda")

    def train():
        out = deformable_attention(value, shapes, locations, weights)
        return out.detach(), *torch.autograd.grad(out, leaves, grad)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # as captures do
        expected = train()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = train()
    graph.replay()
    assert_close(captured, [x.cpu().double() for x in expected], torch.float32)


def test_too_many_levels_are_named():
    shapes = [(1, 1)] * 33
    with pytest.raises(ValueError, match="at most 32 levels, got 33"):
        deformable_attention(*to_gpu(make(shapes, points=1), torch.float32))


def test_autocast_runs_in_half_precision():
    inputs = to_gpu(make(LEVELS, channels=32), torch.float32)
    with torch.autocast("cuda", torch.bfloat16):
        assert deformable_attention(inputs[0].bfloat16(), *inputs[1:]).dtype == torch.bfloat16


@pytest.fixture
def yardstick():
    """The benchmark's kernels after the original scheme."""
    if reason := im2col.why_not():
        pytest.skip(reason)


@pytest.mark.parametrize("images_a_launch", [1, 64])
def test_the_yardstick_of_the_benchmark(yardstick, monkeypatch, images_a_launch):
    monkeypatch.setattr(im2col, "IMAGES_A_LAUNCH", images_a_launch)
    value, shapes, locations, weights = make(LEVELS, 3, 40, 3, 5, 32, reach=0.3)
    inputs = to_gpu((value, shapes, off_edges(shapes, locations), weights), torch.float32)
    exact = [x.cpu().double() if torch.is_tensor(x) else x for x in inputs]
    expected = results(pure_torch.deformable_attention, *exact)
    assert_close(results(im2col.deformable_attention, *inputs), expected, torch.float32)


@pytest.mark.parametrize("terms", [2, 4])
def test_the_yardstick_of_the_fused_operator(yardstick, terms):
    inputs = to_gpu(make_fused(LEVELS, terms, 2, 40, 3, 5, 32), torch.float32)
    expected = unfused(*(x.cpu().double() if torch.is_tensor(x) else x for x in inputs))
    assert_close([im2col.attention_core(*inputs)], [expected], torch.float32)


def test_the_yardstick_refuses_other_heads(yardstick):
    with pytest.raises(ValueError, match="want 32 channels a head"):
        im2col.deformable_attention(*to_gpu(make(LEVELS, channels=16), torch.float32))
