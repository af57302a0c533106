"""Python blocks of the pages, run as they stand."""

from pathlib import Path
from unittest.mock import create_autospec

import pytest
import torch
from detectron2.config import instantiate
from PIL import Image

import ms_detr
from ms_detr import exporting
from ms_detr.config import describe, load
from ms_detr.engine import Comparison, compare_models
from ms_detr.evaluation import Difference
from tests.data.check_support import FAULTS, Clean
from tests.tiny_checkpoint import CLASSES, SMALL

from .pages import DOCS, ROOT, blocks

BLOCKS = [block for block in blocks("python") if block.name is None]
KEYS = [*SMALL, "model.postprocess.top_k=100", "train.device=cpu"]


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_it_is_python(block):
    compile(block.text, str(block), "exec")


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    """Makes a checkpoint of a small demo model, as a training leaves it, below a new folder."""
    monkeypatch.chdir(tmp_path)

    def make(path: str) -> None:
        cfg = load("demo/ms_detr.py", KEYS)
        torch.manual_seed(0)
        state = {"model": instantiate(cfg.model).state_dict(), "classes": list(CLASSES)}
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        torch.save({**state, "config": describe("demo/ms_detr.py", KEYS, cfg)}, path)

    return make


def of_page(page: Path) -> list[str]:
    return [block.text for block in BLOCKS if ROOT / block.page == page]


def test_prediction_in_the_readme(checkpoint, capsys):
    (block,) = of_page(ROOT / "README.md")
    assert len([line for line in block.splitlines() if line]) <= 6
    checkpoint("output/demo/ms_detr/model_final.pth")
    Image.new("RGB", (96, 64), (90, 120, 30)).save("image.jpg")
    exec(block, {})
    lines = capsys.readouterr().out.splitlines()
    assert lines and all(line.split()[0] in CLASSES for line in lines)


def test_prediction(checkpoint, monkeypatch):
    chosen, first, with_config, tensors = of_page(DOCS / "prediction.md")
    checkpoint("output/demo/ms_detr/model_final.pth")
    checkpoint("converted.pth")
    Image.new("RGB", (96, 64), (90, 120, 30)).save("image.jpg")
    names: dict = {}
    exec(chosen, names)
    assert [len(found) for found in names["several"]] == [len(names["found"])] * 2
    exec(first, names)
    assert names["boxes"].shape == (len(names["scores"]), 4)
    assert len(names["names"]) == len(names["classes"]) > 0
    small = load("demo/ms_detr.py", KEYS)
    monkeypatch.setattr("ms_detr.config.load", lambda name: small)
    exec(with_config, names)
    inputs = {
        "images": torch.rand(1, 3, 64, 96),
        "padding_mask": torch.zeros(1, 64, 96, dtype=torch.bool),
        "labels": torch.tensor([1, 2]),
        "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.2], [0.2, 0.3, 0.1, 0.1]]),
    }
    exec(tensors, names | inputs)


def test_training(monkeypatch, capsys):
    """Its calls fit what they call; running them has tests of its own."""
    (block,) = of_page(DOCS / "training.md")
    train, evaluate = (create_autospec(x) for x in (ms_detr.train, ms_detr.evaluate))
    evaluate.return_value = {"bbox": {"AP": 12.5}}
    monkeypatch.setattr(ms_detr, "train", train, raising=False)
    monkeypatch.setattr(ms_detr, "evaluate", evaluate, raising=False)
    exec(block, {})
    assert train.call_args.args[0].train.max_iter == 1000
    assert capsys.readouterr().out == "12.5\n"


def test_own_data(monkeypatch, capsys):
    (block,) = of_page(DOCS / "data.md")
    train_on = create_autospec(ms_detr.train_on)
    train_on.return_value = {"bbox": {"AP": 12.5}}
    monkeypatch.setattr(ms_detr, "train_on", train_on, raising=False)
    exec(block, {})
    assert capsys.readouterr().out == "12.5\n"


def test_export(monkeypatch):
    """Its call fits what it calls; exporting has tests of its own."""
    (block,) = of_page(DOCS / "export.md")
    export = create_autospec(exporting.export)
    monkeypatch.setattr(exporting, "export", export)
    exec(block, {})
    assert export.call_args.args[3].gather


def test_the_operator():
    (block,) = of_page(DOCS / "operator.md")
    names: dict = {}
    exec(block, names)
    assert names["out"].shape == (2, 100, 256)


def test_padding(checkpoint, demo_dataset, monkeypatch, capsys):
    grouping, script = of_page(DOCS / "padding.md")
    names: dict = {"images": [torch.zeros(3, 8 + i % 3, 9) for i in range(9)]}
    exec(grouping, names)
    assert sorted(index for batch in names["batches"] for index in batch) == list(range(9))
    Path("datasets").mkdir()
    Path("datasets/ms_detr_demo").symlink_to(demo_dataset)
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    checkpoint("output/padding/model_final.pth")
    original = load

    def smaller(path: str, overrides: list[str]):
        return original(path, [*KEYS, *overrides])

    monkeypatch.setattr("ms_detr.config.load", smaller)
    exec(script, {"__name__": "script"})
    assert len(capsys.readouterr().out.strip().splitlines()) >= 8


def test_what_is_wrong_with_a_dataset(tmp_path, monkeypatch, capsys):
    (block,) = of_page(DOCS / "check_data.md")
    monkeypatch.chdir(tmp_path)
    data = Clean(tmp_path / "data" / "mine")
    for fault in FAULTS:
        if fault.name in ("leak", "no width"):
            fault.plant(data)
    data.write()
    exec(block, {})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("leaked-image train copy of val 2.png None as val/2.png")
    assert lines[1].startswith("empty-box train 3.png ")
    assert "of the same pixels" in lines[2] and lines[2].endswith(" {}")


def test_comparing(monkeypatch, capsys):
    (block,) = of_page(DOCS / "evaluation.md")
    difference = Difference(31.25, 29.0, low=0.5, high=4.0, better=0.99, draws=1000)
    found = Comparison((), 2, 1000, 0, {"bbox": {"host": {"AP": difference}}})
    compare = create_autospec(compare_models, return_value=found)
    monkeypatch.setattr("ms_detr.engine.compare_models", compare)
    exec(block, {})
    assert capsys.readouterr().out == "+2.25, 0.50 to 4.00\n"


def test_nothing_is_left_out():
    """Every block that isn't a config of its own is run above, or by the page's own test."""
    pages = {block.page for block in BLOCKS}
    run = {
        "README.md",
        *(f"docs/{name}.md" for name in ("prediction", "training", "export", "operator", "data")),
        "docs/check_data.md",
        "docs/evaluation.md",
    }
    assert pages == run | {"docs/padding.md", "docs/your_own_method.md"}
