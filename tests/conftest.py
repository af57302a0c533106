"""What tests of several folders share."""

import logging
import os
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# A busy machine isn't a failure, and the same tree gives the same result.
settings.register_profile("ms_detr", deadline=None, derandomize=True)
settings.load_profile("ms_detr")

# One thread a process, here and in what the tests start: small tensors gain nothing from more.
# (Read when torch is imported, which is later.)
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Ctrl-C reaches what the tests start, also where they run in the background of a shell without job
# control, which ignores it and hands that down.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent

# What the tests start imports this checkout, and these tests, whatever else PYTHONPATH holds: a
# source tree of Detectron2 has a package `tests` too. (This folder has an __init__.py because a
# package that has one wins over one that has none from anywhere on the path.)
PATHS = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
os.environ["PYTHONPATH"] = os.pathsep.join(PATHS)


@pytest.fixture(autouse=True)
def logs_reach_caplog(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that an earlier test started in this process keeps its log from pytest's root."""
    monkeypatch.setattr(logging.getLogger("ms_detr"), "propagate", True)


@pytest.fixture
def float64() -> Iterator[None]:
    """Tensors are float64 unless a test says otherwise, and drawn from seed 0."""
    import torch

    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the checkout."""
    return ROOT


on_linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc tells how much memory is held")


@pytest.fixture(scope="session")
def demo_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny demo dataset to read: 24 train and 12 val images.

    With this seed both splits have an image without objects, one with nine objects or more, and
    one with a crowd region.
    """
    from ms_detr.data import generate_demo

    folder = tmp_path_factory.mktemp("demo_dataset")
    return generate_demo(folder, train_images=24, val_images=12, seed=8, progress=False)


@pytest.fixture
def new_environment(tmp_path: Path) -> Callable[..., Path]:
    """Make a virtual environment; returns its Python.

    With `packages=True` it sees what is installed here (links, so nothing is copied) without
    Detectron2, ms_detr, and the names that start like one in `without`.
    """

    def make(packages: bool = False, without: tuple[str, ...] = ()) -> Path:
        folder = tmp_path / "environment"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        if packages:
            hidden = ("detectron2", "ms_detr", "__editable__", *without)
            links = tmp_path / "links"
            links.mkdir()
            for entry in Path(sysconfig.get_paths()["purelib"]).iterdir():
                if not entry.name.startswith(hidden) and entry.suffix != ".pth":
                    (links / entry.name).symlink_to(entry)
            (site_packages(folder / "bin" / "python") / "links.pth").write_text(f"{links}\n")
        return folder / "bin" / "python"

    return make


def site_packages(python: Path) -> Path:
    """The site-packages of an environment that `new_environment` made."""
    (folder,) = (python.parent.parent / "lib").glob("python3.*/site-packages")
    return folder
