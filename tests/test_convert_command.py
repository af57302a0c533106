"""`ms-detr convert`: from a published file to one that a model loads."""

import argparse

import pytest
import torch
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

from ms_detr.cli import convert as verb
from ms_detr.cli import main
from ms_detr.config import load
from ms_detr.convert import (
    COCO_IDS,
    LAYOUTS,
    convert_state_dict,
)
from ms_detr.engine import load_model

from . import published
from .published import TINY, small


def test_command_makes_a_file_that_a_model_loads(tmp_path, capsys):
    """Like a published file: beside the parameters an optimiser and a command line."""
    source, target = tmp_path / "published.pth", tmp_path / "new" / "converted.pth"
    state = published.two_stage(aux_ffn=True)
    args = argparse.Namespace(lr=2e-4, dataset_file="coco")
    torch.save({"model": state, "optimizer": {}, "epoch": 11, "args": args}, source)
    assert main(["convert", str(source), str(target), "--from", "ms-detr"]) == 0
    assert "from 666 of" in capsys.readouterr().out
    model = load_model(target, load("ms_detr/ms_detr_r50_300q_12ep.py"))
    expected = state["class_embed.5.bias"][list(COCO_IDS)]
    assert torch.equal(model.decoder.class_heads[5].bias.cpu(), expected)
    assert target.stat().st_size < 1.01 * sum(4 * p.numel() for p in model.state_dict().values())
    assert main(["convert", str(source), str(target), "--from", "ms-detr"]) == 2
    assert "exists; choose another file" in capsys.readouterr().err


def test_command_tells_the_layout_by_itself(tmp_path, capsys):
    source, target = tmp_path / "published.pth", tmp_path / "converted.pth"
    state = published.two_stage(mixed=1800, **TINY)
    torch.save({"model": state}, source)
    assert main(["convert", str(source), str(target), "--all-queries"]) == 0
    names = {category["id"]: category["name"] for category in COCO_CATEGORIES}
    assert torch.load(target)["classes"] == [names[number] for number in COCO_IDS]
    assert main(["convert", str(source), str(tmp_path / "kept.pth"), "--classes", "keep"]) == 0
    assert "classes" not in torch.load(tmp_path / "kept.pth")
    assert "(h-detr)" in capsys.readouterr().out
    assert len(torch.load(target)["model"]["query_initializer.content"]) == 1800
    other = str(tmp_path / "other.pth")
    assert main(["convert", str(source), other, "--from", "deformable-detr"]) == 2
    error = capsys.readouterr().err
    assert "published.pth: this is a checkpoint of h-detr, by its names" in error
    assert main(["convert", str(target), other]) == 2
    assert "converted.pth has our names already: give it as it is" in capsys.readouterr().err
    torch.save({"a.weight": torch.ones(2)}, source)
    assert main(["convert", str(source), other]) == 2
    assert "no layout is known by its names (a.weight)" in capsys.readouterr().err


def test_command_reads_safetensors(tmp_path, capsys):
    save_file = pytest.importorskip("safetensors.torch").save_file
    source, target = tmp_path / "model.safetensors", tmp_path / "converted.pth"
    state = {name: tensor.clone() for name, tensor in small(aux_ffn=True).items()}
    save_file(state, source)
    assert main(["convert", str(source), str(target)]) == 0
    converted = torch.load(target)["model"]
    expected = convert_state_dict(state, "ms-detr", classes="coco91")
    assert converted.keys() == expected.keys()
    assert all(torch.equal(converted[name], expected[name]) for name in expected)
    source.write_bytes(b"no such thing")
    assert main(["convert", str(source), str(tmp_path / "x.pth")]) == 2
    assert "model.safetensors can't be read as safetensors" in capsys.readouterr().err


def test_command_refuses_files_with_code(tmp_path, capsys):
    source = tmp_path / "evil.pth"
    torch.save({"model": {}, "hook": print}, source)
    assert main(["convert", str(source), str(tmp_path / "x.pth"), "--from", "ms-detr"]) == 2
    assert "could run code" in capsys.readouterr().err


def test_command_offers_every_layout():
    assert set(verb.SOURCES) == LAYOUTS.keys()
