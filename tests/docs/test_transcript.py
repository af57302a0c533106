"""The README's way from a folder of photos and VOC files to an exported model, as it stands."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.data.formats.support import BCCD
from tests.own_data import forms
from tests.own_data.test_command import TINY

from .pages import ROOT, blocks, commands

FOLDER = "my_photos"
IMAGES = 12  # of a dataset that is named


def transcript() -> list[list[str]]:
    """The commands of the README's section on own data."""
    (block,) = (b for b in blocks("bash", ROOT / "README.md") if "--data" in b.text)
    return commands(block)


def part_of(dataset: Path, folder: Path) -> None:
    """Copy a few images of a VOC dataset, and their labels, without its lists of splits."""
    for labels in sorted((dataset / "Annotations").glob("*.xml"))[:IMAGES]:
        name = ElementTree.parse(labels).findtext("filename")
        for path in (labels, dataset / "JPEGImages" / name):
            copy = folder / path.relative_to(dataset)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)


def test_it_takes_few_commands():
    assert [words[1] for words in transcript()] == ["train", "evaluate", "predict", "export"]
    assert all(words[0] == "ms-detr" for words in transcript())


@pytest.mark.slow
def test_from_voc_to_an_exported_model(tmp_path, monkeypatch):
    """With a few micrographs of BCCD, or of ``MS_DETR_VOC=FOLDER``; else generated images."""
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    dataset = Path(os.environ.get("MS_DETR_VOC", BCCD))
    if dataset.is_dir():
        part_of(dataset, tmp_path / FOLDER)
    else:
        forms.voc(tmp_path / FOLDER)
    for _, verb, *words in transcript():
        command = [sys.executable, "-m", "ms_detr", verb, *words]
        command += TINY if verb == "train" else []
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 0, f"{verb}: {result.stdout}{result.stderr}"
    run = tmp_path / "output" / FOLDER
    assert (run / "eval_only" / "evaluation" / "results.json").is_file()
    images = list((tmp_path / FOLDER / "JPEGImages").iterdir())
    drawn = (tmp_path / "output" / "predictions").rglob("*.*")
    assert {path.stem for path in drawn} >= {path.stem for path in images}
    assert (tmp_path / "model_final.onnx").stat().st_size > 100_000
    example = [sys.executable, str(ROOT / "docs/examples/onnx_predict.py"), "model_final.onnx"]
    result = subprocess.run([*example, str(images[0])], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
