"""Our checkpoints as ``.safetensors`` and back: values, shared tensors, classes, config."""

import json
import sys

import pytest
import torch
from detectron2.config import instantiate

import ms_detr
from ms_detr.cli import main
from ms_detr.config import describe, load
from ms_detr.engine import read_checkpoint
from ms_detr.engine.archive import write_checkpoint
from ms_detr.engine.safetensors_file import read_safetensors, write_safetensors
from ms_detr.errors import CheckpointError, MissingPackageError
from tests.engine.standin import Detector
from tests.engine.test_load_model import CLASSES
from tests.engine.test_predict import KEYS

safetensors = pytest.importorskip("safetensors.torch")
CONFIG = "demo/family/dino.py"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A checkpoint of a model whose layers share their heads, and the same as ``.safetensors``."""
    folder = tmp_path_factory.mktemp("trained")
    cfg = load(CONFIG, KEYS)
    torch.manual_seed(0)
    model = instantiate(cfg.model)
    content = {"model": model.state_dict(), "classes": CLASSES, "iteration": 9, "optimizer": {}}
    known = {"config": describe(CONFIG, KEYS, cfg), "version": "0.0.7"}
    write_checkpoint(folder / "a.pth", content | known)
    assert main(["convert", str(folder / "a.pth"), str(folder / "a.safetensors")]) == 0
    return folder


def same(state, other):
    assert state.keys() == other.keys()
    for name, tensor in state.items():
        assert tensor.dtype == other[name].dtype and torch.equal(tensor, other[name]), name


def places(state):
    """Names by the memory that they stand for."""
    found = {}
    for name, tensor in state.items():
        if tensor.numel():
            found.setdefault((tensor.data_ptr(), tensor.shape), set()).add(name)
    return sorted(map(sorted, found.values()))


def test_there_and_back(trained):
    assert main(["convert", str(trained / "a.safetensors"), str(trained / "back.pth")]) == 0
    before, between, after = (
        read_checkpoint(trained / name) for name in ("a.pth", "a.safetensors", "back.pth")
    )
    for content in (between, after):
        same(content["model"], before["model"])
        assert places(content["model"]) == places(before["model"])
        assert {key: content[key] for key in content if key != "model"} == {
            key: before[key] for key in ("classes", "config", "version")
        }
    assert any(len(names) > 1 for names in places(before["model"]))


def test_others_can_read_it(trained):
    """By the library alone; each tensor is there once."""
    state = read_checkpoint(trained / "a.pth")["model"]
    found = safetensors.load_file(trained / "a.safetensors")
    assert found.keys() == {names[0] for names in places(state)} | {
        name for name, tensor in state.items() if not tensor.numel()
    }
    for name, tensor in found.items():
        assert torch.equal(tensor, state[name])


def test_a_model_and_its_classes(trained):
    one, other = (ms_detr.load_model(trained / f"a.{end}").cpu() for end in ("pth", "safetensors"))
    assert other.class_names == tuple(CLASSES)
    images, mask = torch.rand(1, 3, 64, 96), torch.zeros(1, 64, 96, dtype=torch.bool)
    with torch.no_grad():
        ours, theirs = (x.forward_tensors(images, mask)["decoder"] for x in (one, other))
    assert torch.equal(ours.logits, theirs.logits) and torch.equal(ours.boxes, theirs.boxes)


def test_runs_know_its_classes(train, tmp_path, caplog):
    """The dataset's order is another; a training and an evaluation follow the weights."""
    state = Detector().state_dict()
    file = tmp_path / "a.safetensors"
    write_safetensors(file, {"model": state, "classes": ["bar", "square"]})
    train("out", f"train.init_checkpoint={file}", "train.max_iter=1")
    assert read_checkpoint(tmp_path / "out" / "model_final.pth")["classes"] == ["bar", "square"]
    train("eval", f"train.init_checkpoint={file}", "--eval-only")
    write_safetensors(file, {"model": state, "classes": ["bar", "disc"]})
    with pytest.raises(ValueError, match=r"a\.safetensors: .*disc"):
        train("eval", f"train.init_checkpoint={file}", "--eval-only")


def test_parts_of_larger_memory(tmp_path):
    """Rows, transposed and overlapping views, scalars, whole numbers and empty tensors."""
    whole = torch.arange(12.0).view(3, 4)
    state = {
        "row": whole[1], "columns": whole.T, "whole": whole, "flat": whole.view(-1),
        "same": whole, "count": torch.tensor(7), "empty": torch.zeros(0, 2),
        "none": torch.zeros(0, 2), "half": torch.ones(2, dtype=torch.bfloat16),
    }  # fmt: skip
    write_safetensors(tmp_path / "a.safetensors", {"model": state})
    found = read_safetensors(tmp_path / "a.safetensors")["model"]
    same(found, state)
    assert found["same"].data_ptr() == found["whole"].data_ptr()
    assert found["flat"].data_ptr() != found["whole"].data_ptr()


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"ms_detr.classes": "{}"}, "its ms_detr.classes is no list"),
        ({"ms_detr.classes": "[1]"}, "the names of its classes are no texts"),
        ({"ms_detr.config": "nothing"}, "its ms_detr.config can't be read"),
        ({"ms_detr.config": "[" * 100_000}, "its ms_detr.config can't be read"),
        ({"ms_detr.shared": json.dumps({"b": "gone"})}, "b is said to be gone"),
        ({"ms_detr.shared": json.dumps({"b": ["gone"]})}, "b is said to be"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_metadata_of_anybody(tmp_path, metadata, message):
    file = tmp_path / "a.safetensors"
    safetensors.save_file({"a": torch.ones(2)}, file, metadata)
    with pytest.raises(CheckpointError, match=message):
        ms_detr.load_model(file, load(CONFIG, KEYS))


def test_without_the_library(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(MissingPackageError, match=r"a\.safetensors needs .* pip install safet"):
        ms_detr.load_model(trained / "a.safetensors")
    assert main(["convert", str(trained / "a.pth"), str(tmp_path / "b.safetensors")]) == 2
    assert "b.safetensors needs the library safetensors" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
