"""The CUDA kernels' logic, on the CPU (see emulation/device.h)."""

import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from torch.utils import cpp_extension

from ms_detr.benchmarks import im2col
from ms_detr.ops import reference
from tests.conftest import ROOT

from .inputs import make, make_fused, results, unfused

COMPILER = shutil.which(os.environ.get("CXX", "g++"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(COMPILER is None, reason="there is no C++ compiler"),
]
TOLERANCES = {
    torch.float64: 1e-10,
    torch.float32: 1e-5,
    torch.float16: 1e-3,
    torch.bfloat16: 1e-2,
}


def compile_emulator(name, headers, folder, *flags):
    """Compile one emulator around the kernels in `headers` and load its operator."""
    library = folder / f"{name}.so"
    includes = [ROOT / headers, *cpp_extension.include_paths()]
    command = [COMPILER, "-O1", "-std=c++20", "-fPIC", "-shared", "-w", "-pthread", *flags]
    command += [f"-I{folder}" for folder in includes]
    command += [str(Path(__file__).parent / "emulation" / f"{name}.cpp"), "-o", str(library)]
    command += [f"-L{folder}" for folder in cpp_extension.library_paths()]
    command += ["-ltorch", "-ltorch_cpu", "-lc10"]
    subprocess.run(command, check=True)
    torch.ops.load_library(str(library))


@pytest.fixture(scope="module", params=["sm_80", "sm_90"])
def attend(request, tmp_path_factory):
    """The operator's kernels, forward and backward: older architectures add float by float."""
    library = f"ms_detr_emulated_{request.param}"
    flags = [f"-DLIBRARY={library}"] + ["-DEMULATED_ARCH=800"] * (request.param == "sm_80")
    compile_emulator("operator", "ops/csrc/cuda", tmp_path_factory.mktemp(library), *flags)
    return getattr(torch.ops, library).attend


@pytest.fixture(scope="module")
def yardstick_kernels(tmp_path_factory):
    """Those of the benchmark's yardstick."""
    compile_emulator("im2col", "ms_detr/benchmarks", tmp_path_factory.mktemp("im2col"))
    return torch.ops.ms_detr_emulated_im2col


@pytest.fixture
def yardstick(yardstick_kernels, monkeypatch):
    """The yardstick runs emulated kernels."""
    monkeypatch.setattr(im2col, "KERNELS", yardstick_kernels)


def in_float(inputs):
    return [x.float() if torch.is_tensor(x) else x for x in inputs]


def in_double(inputs):
    return [x.double() if torch.is_tensor(x) else x for x in inputs]


def random_problem(draw, terms):
    sizes = [1, 2, 3, 7, 9]
    shapes = [(draw.choice(sizes), draw.choice(sizes)) for _ in range(draw.randint(1, 4))]
    problem = dict(
        shapes=shapes,
        batch=draw.randint(1, 2),
        queries=draw.choice([1, 5, 9]),
        heads=draw.randint(1, 2),
        points=draw.randint(1, 5),
        channels=draw.choice([3, 16, 32, 64, 40]),
        seed=draw.randint(0, 1 << 30),
    )
    return make_fused(**problem, terms=terms) if terms else make(**problem, reach=0.3)


def assert_close(actual, expected, dtype):
    for one, other in zip(actual, expected, strict=True):
        scale = 1 + other.abs().max()
        torch.testing.assert_close(
            one.double() / scale, other / scale, rtol=0, atol=TOLERANCES[dtype]
        )


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("terms", [0, 2, 4])
def test_kernels(attend, terms, dtype):
    draw = random.Random(terms)
    for _ in range(6):
        inputs = random_problem(draw, terms)
        value = inputs[0].to(dtype)
        shapes = inputs[1]
        rest = [tensor.to(torch.promote_types(dtype, torch.float32)) for tensor in inputs[2:]]
        exact = [value.double(), shapes, *(tensor.double() for tensor in rest)]
        if terms:
            expected = results(
                lambda v, o, w, e=exact: unfused(v, e[1], e[2], o, w), exact[0], *exact[3:]
            )
        else:
            expected = results(reference.deformable_attention, *exact)
        generator = torch.Generator().manual_seed(0)
        grad = torch.randn(expected[0].shape, generator=generator, dtype=torch.float64).to(dtype)
        flat = [size for shape in shapes for size in shape]
        actual = attend(value, flat, rest[0] if terms else None, *rest[-2:], grad)
        assert_close(actual, expected, dtype)


@pytest.mark.parametrize("seed", range(6))
def test_the_yardstick_of_the_benchmark(yardstick, seed):
    shapes = [(7, 9), (3, 4), (1, 1), (2, 5)][: 1 + seed % 4]
    inputs = in_float(make(shapes, 1 + seed % 2, 5, 2, 3, 32, seed, reach=0.3))
    expected = results(reference.deformable_attention, *in_double(inputs))
    assert_close(results(im2col.deformable_attention, *inputs), expected, torch.float32)


@pytest.mark.parametrize("terms", [2, 4])
def test_the_yardstick_of_the_fused_operator(yardstick, terms):
    inputs = in_float(make_fused([(7, 9), (3, 4)], terms, 2, 5, 2, 3, 32))
    expected = unfused(*in_double(inputs))
    assert_close([im2col.attention_core(*inputs)], [expected], torch.float32)
