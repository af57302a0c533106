"""The compiled operators against pure torch."""

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ms_detr.ops import deformable_attention, fused_deformable_attention
from ms_detr.ops import reference as pure_torch
from tests.conftest import ROOT
from tests.rounding import assert_rounded

from .inputs import make, make_fused, needs_compiled, off_edges, results, unfused

pytestmark = needs_compiled
LEVELS = [(7, 9), (3, 4), (1, 1), (2, 5)]

sizes = st.tuples(st.integers(1, 9), st.integers(1, 9))
problems = dict(
    shapes=st.lists(sizes, min_size=1, max_size=5),
    batch=st.integers(0, 3),
    queries=st.sampled_from([0, 1, 2, 7, 40]),
    heads=st.integers(1, 3),
    points=st.integers(1, 5),
    # More than 16 samples take several vectors.
    channels=st.sampled_from([1, 2, 5, 8, 16, 17, 24, 32, 48, 64, 80]),
    seed=st.integers(0, 2**31),
)


@pytest.fixture(autouse=True)
def poisoned_memory():
    """New memory holds NaN: what a kernel reads without having written shows."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def assert_same(actual, expected, atol=1e-10):
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=atol)


@pytest.mark.parametrize("channels", [16, 32, 64, 80])
@pytest.mark.parametrize("queries", [1, 16, 40])
def test_sizes_that_are_constants_to_the_compiler(channels, queries):
    """Four levels of four points; the levels of one cell width force copies, the others don't."""
    for shapes in (LEVELS, [(7, 9), (3, 4), (2, 2), (2, 5)]):
        value, _, locations, weights = make(shapes, queries=queries, points=4, channels=channels)
        inputs = value, shapes, off_edges(shapes, locations), weights
        expected = results(pure_torch.deformable_attention, *inputs)
        assert_same(results(deformable_attention, *inputs), expected)


@settings(max_examples=150)
@given(**problems, reach=st.sampled_from([0.0, 0.3, 2.0, 1e3]))
def test_forward_and_gradients(reach, **problem):
    value, shapes, locations, weights = make(**problem, reach=reach)
    inputs = value, shapes, off_edges(shapes, locations), weights
    assert_same(
        results(deformable_attention, *inputs), results(pure_torch.deformable_attention, *inputs)
    )


@settings(max_examples=150)
@given(**problems, terms=st.sampled_from([2, 4]))
def test_fused_forward_and_gradients(terms, **problem):
    value, shapes, references, offsets, logits = make_fused(**problem, terms=terms)

    def fused(value, offsets, logits):
        return fused_deformable_attention(value, shapes, references, offsets, logits)

    def parts(value, offsets, logits):
        return unfused(value, shapes, references, offsets, logits)

    inputs = value, offsets, logits
    assert_same(results(fused, *inputs), results(parts, *inputs))


@pytest.mark.parametrize("terms", [2, 4])
def test_fused_gradcheck(terms):
    shapes = LEVELS[1:]
    value, _, references, offsets, logits = make_fused(shapes, terms, 1, 2, 2, 2, 2)
    inputs = [tensor.requires_grad_() for tensor in (value, offsets, logits)]

    def function(value, offsets, logits):
        return fused_deformable_attention(value, shapes, references, offsets, logits)

    assert torch.autograd.gradcheck(function, inputs)


@pytest.mark.parametrize("terms", [2, 4])
def test_references_may_need_a_gradient(terms):
    inputs = make_fused(LEVELS, terms)
    assert_same(results(fused_deformable_attention, *inputs), results(unfused, *inputs))


@pytest.mark.parametrize("set", ["avx512", "avx2", "baseline"])
def test_every_instruction_set(set, pytestconfig):
    """The tests above in a process that is held to an instruction set (or the best one below)."""
    paths = " ".join(map(str, pytestconfig.getini("pythonpath")))  # the same package is tested
    selected = "forward_and_gradients or constants or gradcheck or half or softmax"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", selected]
    command += [__file__, "--confcutdir", str(ROOT), "-o", f"pythonpath={paths}"]
    environment = os.environ | {"MS_DETR_CPU": set}
    result = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment
    )
    assert result.returncode == 0, result.stdout[-3000:]
    assert " passed" in result.stdout and "skipped" not in result.stdout


def test_an_unknown_instruction_set_is_refused():
    problem = "MS_DETR_CPU must be avx512, avx2 or baseline, got sse9"
    environment = os.environ | {"MS_DETR_CPU": "sse9"}

    def ms_detr(*arguments):
        command = [sys.executable, "-m", "ms_detr", *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment
        )

    assert ms_detr("train", "configs/demo/ms_detr.py").stderr.endswith(
        f"error: {problem} (unset it for the best one)\n"
    )
    shown = ms_detr("doctor").stdout
    assert problem in shown and "operator: unset MS_DETR_CPU\n" in shown


def test_location_gradient_on_an_edge_is_one_of_the_two_sides():
    shapes = [(4, 5)]
    value, _, _, weights = make(shapes, 1, 30, 1, 1, 8)
    pixels = torch.cartesian_prod(torch.arange(-1.0, 5), torch.arange(-1.0, 4)).double()
    size = torch.tensor([5.0, 4.0], dtype=torch.float64)

    def gradient(shift):
        locations = ((pixels + shift + 0.5) / size).view(1, 30, 1, 1, 1, 2)
        return results(deformable_attention, value, shapes, locations, weights)[2]

    at = gradient(torch.zeros(2, dtype=torch.float64))
    sides = [
        gradient(torch.tensor([dx, dy], dtype=torch.float64))
        for dx in (-1e-9, 1e-9)
        for dy in (-1e-9, 1e-9)
    ]
    close = torch.stack([(at - side).abs().amax(-1) < 1e-6 for side in sides])
    assert close.any(0).all()


def test_not_a_number_and_infinity_contribute_nothing():
    value, shapes, locations, weights = make(LEVELS, queries=4, channels=16)
    bad = torch.tensor([float("nan"), float("inf"), -float("inf"), 1e300])
    for k, x in enumerate(bad):
        locations[:, k, :, 0, 0, k % 2] = x
    good = locations.clone()
    good[:, :, :, 0, 0] = 99.0  # far outside
    outputs = [results(deformable_attention, value, shapes, x, weights) for x in (locations, good)]
    assert_same(outputs[0], outputs[1], atol=0)
    low = results(deformable_attention, value.float(), shapes, locations.float(), weights.float())
    assert all(part.isfinite().all() for part in low)


def test_softmax_of_extreme_logits():
    value, shapes, references, offsets, logits = make_fused(LEVELS, 2)
    logits[:, 0] *= 1e4
    logits[:, 1] = -1e4
    logits[:, 2, :, 0, 0] = 200.0
    low = [x.float() if torch.is_tensor(x) else x for x in (value, shapes, references, offsets)]
    low.append(logits.float())
    exact = unfused(*(x.double() if torch.is_tensor(x) else x for x in low))
    assert_rounded(fused_deformable_attention(*low), exact, unfused(*low))
    nan = torch.full_like(logits, float("nan"))
    inside = fused_deformable_attention(value, shapes, references, 0 * offsets, nan)
    assert inside.isnan().all()


@pytest.mark.parametrize("points", [2, 4])
@pytest.mark.parametrize("channels", [16, 24, 32, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_half_and_single_precision(dtype, channels, points):
    """Computed in float32, and rounded once."""
    value, shapes, locations, weights = make(
        LEVELS, queries=20, points=points, channels=channels, reach=0.1
    )
    locations = off_edges(shapes, locations)
    low = value.to(dtype), shapes, locations.float(), weights.float()
    actual = results(deformable_attention, *low, grad_dtype=dtype)
    single, exact = (
        results(
            pure_torch.deformable_attention,
            *(x.to(wide) if torch.is_tensor(x) else x for x in low),
            grad_dtype=dtype,
        )
        for wide in (torch.float32, torch.float64)
    )
    assert [part.dtype for part in actual] == [dtype, dtype, torch.float32, torch.float32]
    for parts in zip(actual, exact, single, strict=True):
        assert_rounded(*parts)


def test_inputs_may_have_gaps():
    value, shapes, locations, weights = make(LEVELS, channels=16)
    gaps = (
        value.transpose(1, 2).contiguous().transpose(1, 2),
        shapes,
        torch.stack((locations, locations), -1)[..., 0],
        weights.transpose(2, 4).contiguous().transpose(2, 4),
    )
    assert not any(x.is_contiguous() for x in gaps if torch.is_tensor(x))
    assert_same(
        results(deformable_attention, *gaps),
        results(deformable_attention, *make(LEVELS, channels=16)),
    )


def test_number_of_threads_does_not_matter_to_the_last_bit():
    value, shapes, references, offsets, logits = make_fused(
        [(20, 30), (10, 15)], 2, 1, 750, 2, 4, 16
    )
    floats = [x.float() if torch.is_tensor(x) else x for x in (value, shapes, references)]
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):  # three threads split the two heads
            torch.set_num_threads(threads)
            found.append(
                results(
                    lambda v, o, w: fused_deformable_attention(v, shapes, floats[2], o, w),
                    *(floats[0], offsets.float(), logits.float()),
                )
            )
    finally:
        torch.set_num_threads(before)
    for others in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], others, strict=True))


def test_the_cpu_is_deterministic():
    """And says so: these tests run in deterministic mode."""
    inputs = make(LEVELS)
    first, second = (results(deformable_attention, *inputs) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_second_derivatives_are_refused():
    value, shapes, locations, weights = make(LEVELS)
    value.requires_grad_()
    out = deformable_attention(value.square(), shapes, locations, weights)
    (grad,) = torch.autograd.grad(out.sum(), value, create_graph=True)
    with pytest.raises(NotImplementedError, match=r"ms_detr\.ops\.reference"):
        grad.sum().backward()


def test_transforms_take_pure_torch():
    """Forward mode and torch.func, which the kernels do not know."""
    value, shapes, locations, weights = make(LEVELS)
    tangent = torch.rand_like(weights)

    def attend(weights):
        return deformable_attention(value, shapes, locations, weights)

    exact = deformable_attention(value, shapes, locations, tangent)  # linear in the weights
    _, derivative = torch.func.jvp(attend, (weights,), (tangent,))
    torch.testing.assert_close(derivative, exact)
    gradient = torch.func.grad(lambda w: (attend(w) ** 2).sum())(weights)
    weights.requires_grad_()
    (expected,) = torch.autograd.grad((attend(weights) ** 2).sum(), weights)
    torch.testing.assert_close(gradient, expected)


def test_references_learn_under_vmap():
    value, shapes, references, offsets, logits = make_fused(LEVELS, 4)
    many = torch.stack((references, references * 0.9)).requires_grad_()

    def attend(reference):
        return fused_deformable_attention(value, shapes, reference, offsets, logits)

    torch.func.vmap(attend)(many).sum().backward()
    alone = [reference.detach().requires_grad_() for reference in many]
    for reference in alone:
        attend(reference).sum().backward()
    torch.testing.assert_close(many.grad, torch.stack([reference.grad for reference in alone]))


def test_the_fused_operator_itself_refuses_gradients_of_references():
    value, shapes, references, offsets, logits = make_fused(LEVELS, 2)
    flat = [size for shape in shapes for size in shape]
    out = torch.ops.ms_detr.fused_deformable_attention(
        value, flat, references.requires_grad_(), offsets, logits
    )
    with pytest.raises(NotImplementedError, match="no gradient of references"):
        out.sum().backward()


def test_more_than_kernels_hold_is_refused():
    shapes = [(4096, 4096)]
    value = torch.empty(1, 1, 1, 1).expand(1, 4096 * 4096, 1, 1)
    locations, weights = torch.zeros(1, 1, 1, 1, 1, 2), torch.ones(1, 1, 1, 1, 1)
    with pytest.raises(ValueError, match="4096 x 4096 cells is too large"):
        deformable_attention(value, shapes, locations, weights)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v, s, x, w: (v[0], s, x, w), "value must be"),
        (lambda v, s, x, w: (v, s[1:], x, w), "level_shapes must hold"),
        (lambda v, s, x, w: (v, [3, 3, *s[2:]], x, w), "have 13 cells, value has 16"),
        (lambda v, s, x, w: (v, [4, 4, *s[2:]], x, w), "more cells than the 16 of value"),
        (lambda v, s, x, w: (v, [2**32, 2**32, *s[2:]], x, w), "more cells than the 16 of value"),
        (lambda v, s, x, w: (v.int(), s, x, w), "value must be floating point"),
        (lambda v, s, x, w: (v, s, x, w.int()), "must be floating point"),
        (lambda v, s, x, w: (v, [-3, -4, *s[2:]], x, w), "must be positive"),
        (lambda v, s, x, w: (v, s, x[0], w), "locations or offsets must be"),
        (lambda v, s, x, w: (v, s, x[:1], w), "another batch"),
        (lambda v, s, x, w: (v, s, x, w[..., :1]), "weights or logits must be"),
    ],
)
def test_the_kernels_check_for_themselves(change, message):
    value, _, locations, weights = make([(3, 4), (2, 2)])
    inputs = change(value, [3, 4, 2, 2], locations, weights)
    with pytest.raises((ValueError, TypeError), match=message):
        torch.ops.ms_detr.deformable_attention(*inputs)
    if message == "value must be":
        return
    grad = torch.zeros(2, 3, 6, dtype=torch.float64)
    with pytest.raises((ValueError, TypeError), match=message):
        torch.ops.ms_detr.deformable_attention_backward(grad, *inputs)
