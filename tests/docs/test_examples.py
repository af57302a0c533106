"""Configs that pages show: written elsewhere, they are loaded and built from another folder."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate

from ms_detr.config import load

from .pages import ROOT, Block, blocks, without_checkout

EXAMPLES = [block for block in blocks("python") if block.name and "/" not in block.name]
SOURCES = ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE")
SOURCES = (*SOURCES, "ms_detr", "configs", "ops")


def test_examples_are_found():
    assert {"docs/data.md", "docs/configs.md", "docs/methods.md", "docs/masks.md"} <= {
        block.page for block in EXAMPLES
    }
    names = [block.name for block in EXAMPLES]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("block", EXAMPLES, ids=str)
def test_a_config_anywhere_composes(block: Block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(block.name).write_text(block.text)
    cfg = load(block.name)
    assert set(cfg) == {"model", "dataloader", "train", "optimizer", "lr_multiplier"}
    assert cfg.train.output_dir == f"output/{Path(block.name).stem}"
    with torch.device("meta"):
        model = instantiate(cfg.model)
    assert model.num_classes == cfg.model.num_classes


def test_the_config_for_own_data_is_the_shipped_one_on_other_data(tmp_path):
    (block,) = [block for block in EXAMPLES if block.name == "my_config.py"]
    (tmp_path / block.name).write_text(block.text)
    made, shipped = load(tmp_path / block.name), load("ms_detr/ms_detr_pp_r50_300q_12ep.py")
    assert made.dataloader.train.dataset.annotations == "data/train.json"
    assert made.dataloader.test.dataset.images == "data/val"
    assert (made.model.num_classes, made.optimizer.lr) == (3, 5e-5)
    made.model.num_classes = shipped.model.num_classes
    assert made.model == shipped.model
    made.optimizer.lr = shipped.optimizer.lr
    assert made.optimizer == shipped.optimizer


@pytest.mark.slow
def test_examples_compose_with_an_installed_wheel(tmp_path, monkeypatch):
    """Without a compiler: the operator has tests of its own."""
    sources, installed, elsewhere = (tmp_path / name for name in ("sources", "site", "elsewhere"))
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        sources.mkdir(exist_ok=True)
        copy(ROOT / name, sources / name)
    for left in sources.glob("ms_detr/ops/_C*"):
        left.unlink()
    for name, value in (("CC", "/bin/false"), ("CXX", "/bin/false"), ("MS_DETR_BUILD_CUDA", "0")):
        monkeypatch.setenv(name, value)
    command = [sys.executable, "-m", "pip", "install", "--no-build-isolation", "--no-deps"]
    command += ["--no-index", "--quiet", "--target", str(installed), str(sources)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    elsewhere.mkdir()
    for block in EXAMPLES:
        (elsewhere / block.name).write_text(block.text)
    names = [block.name for block in EXAMPLES]
    command = [sys.executable, str(Path(__file__).parent / "compose.py"), *names]
    monkeypatch.setenv("PYTHONPATH", without_checkout(installed))
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=elsewhere)
    assert result.returncode == 0, result.stderr
    package, *lines = result.stdout.splitlines()
    assert Path(package).is_relative_to(installed)
    assert [line.split()[0] for line in lines] == names
