"""`ms-detr analyze`, on a few generated images."""

import json

import pytest
import torch
from PIL import Image

from ms_detr.cli import main
from ms_detr.config import load
from ms_detr.engine import read_checkpoint
from ms_detr.engine.archive import write_checkpoint
from ms_detr.engine.building import build

CONFIGS = {"baseline": "demo/deformable_detr.py", "mixed": "demo/ms_detr.py"}


@pytest.fixture
def analyze(compared, overrides, tmp_path):
    """The command for both trained models."""
    folder, _ = compared

    def words(what, *further, names=CONFIGS, images=2):
        command = ["analyze", what, "--output", str(tmp_path), "--images", str(images)]
        for name in names:
            weights = f"train.init_checkpoint={folder / name / 'seed3' / 'model_final.pth'}"
            command += ["--run", name, CONFIGS[name], *overrides, weights]
        return [*command, *further]

    return words


def rows_of(capsys):
    shown = json.loads(capsys.readouterr().out)
    assert shown["note"]
    return shown["rows"]


def test_discriminability(analyze, tmp_path, capsys):
    assert main(analyze("discriminability", "--pictures", "1")) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0].split("|")[1:4] == [" run      ", "   images ", "   D in objects "]
    assert "isn't published" in out
    (picture,) = tmp_path.glob("*_discriminability.png")
    with Image.open(picture) as image:
        assert image.size == (3 * 384 + 2 * 8, 384 + 24)
        panels = [image.crop((x, 24, x + 384, 408)).tobytes() for x in (0, 392, 784)]
        # After two steps from one seed the models hardly differ.
        assert panels[0] not in panels[1:]


def test_levels_and_masks_change_the_numbers_and_nothing_else_does(analyze, capsys):
    found = []
    for further in ([], [], ["--levels", "0"], ["--masks"]):
        words = analyze("discriminability", "--json", *further, names=["mixed"])
        assert main(words) == 0
        found.append(rows_of(capsys)[0]["D in objects"])
    assert found[0] == found[1]
    assert len(set(found)) == 3


@pytest.mark.parametrize("scored", ["encoder", "attention"])
def test_iof_iob(analyze, tmp_path, capsys, scored):
    assert main(analyze("iof-iob", "--what", scored, "--json", images=4)) == 0
    rows = rows_of(capsys)
    assert [row["run"] for row in rows] == list(CONFIGS)
    for row in rows:
        assert len(row["IoF"]) == len(row["IoB"]) == 101
        assert 0 < row["area"] < 1
    with Image.open(tmp_path / f"iof_iob_{scored}.png") as picture:
        assert picture.width > 500
    assert main(analyze("iof-iob", "--what", scored, "--iob", "above", names=["mixed"])) == 0
    out = capsys.readouterr().out
    assert "IoF at 0.5" in out and "threshold" not in out.splitlines()[0]
    assert "background above the threshold" in out


def test_what_cannot_be_analysed(analyze, overrides, tmp_path, capsys):
    assert main(analyze("iof-iob", "--top", "3")) == 2
    assert "add --what attention" in capsys.readouterr().err
    assert main(analyze("discriminability", "--levels", "7", names=["mixed"])) == 2
    assert "there is no level 7" in capsys.readouterr().err
    words = ["analyze", "iof-iob", "--output", str(tmp_path), "--run", "a", "demo/ms_detr.py"]
    assert main([*words, *overrides]) == 2
    assert "--run a: give its weights behind the config" in capsys.readouterr().err
    assert main([*words, "--run", "a", "demo/ms_detr.py"]) == 2
    assert "a name of its own" in capsys.readouterr().err


def test_runs_of_other_images(analyze, demo_dataset, capsys):
    train = [f"dataloader.test.dataset.images={demo_dataset / 'train'}"]
    train += [f"dataloader.test.dataset.annotations={demo_dataset / 'annotations/train.json'}"]
    train += ["dataloader.test.dataset.name=tiny_other"]
    assert main([*analyze("discriminability"), *train]) == 2
    assert "--run mixed: its images aren't those of 'baseline'" in capsys.readouterr().err


TWO_HEADS = """
from detectron2.config import LazyCall as L
from ms_detr.auxiliary import Adapter, Auxiliary, AuxiliaryHeads
from ms_detr.recipes.demo import demo
from tests.analysis.heads import Looking

model, dataloader, train, optimizer, lr_multiplier = demo("plus_plus")
model.auxiliary = L(Auxiliary)(
    adapter=L(Adapter)(embed_dim="${model.embed_dim}"),
    heads=L(AuxiliaryHeads)(
        first=L(Looking)(embed_dim="${model.embed_dim}"),
        second=L(Looking)(embed_dim="${model.embed_dim}"),
    ),
)
"""


def test_conflict(analyze, overrides, tmp_path, capsys):
    config, weights = tmp_path / "two_heads.py", tmp_path / "weights.pth"
    config.write_text(TWO_HEADS)
    write_checkpoint(weights, {"model": build(load(config, overrides), "model").state_dict()})
    words = ["analyze", "conflict", "--output", str(tmp_path), "--images", "4"]
    both = ["--run", "both", str(config), *overrides, f"train.init_checkpoint={weights}"]
    single = ["--run", "single", *both[2:], "model.auxiliary.heads.second=null"]
    write_checkpoint(
        tmp_path / "single.pth",
        {
            "model": {
                name: tensor
                for name, tensor in read_checkpoint(weights)["model"].items()
                if "heads.second" not in name
            }
        },
    )
    single[-2] = f"train.init_checkpoint={tmp_path / 'single.pth'}"
    assert main([*words, *both, *single, "--json"]) == 0
    rows = rows_of(capsys)
    assert [row["head"] for row in rows] == ["decoder", "first", "second", "decoder", "first"]
    assert [row["S_i"] is None for row in rows] == [True, False, False, True, False]
    assert rows[1]["to second"] > 0 == rows[1]["to first"]
    assert rows[1]["S_i"] == (rows[1]["to second"] + rows[2]["to first"]) / 2
    assert rows[4]["S_i"] == (rows[3]["to first"] + rows[4]["to decoder"]) / 2
    with Image.open(tmp_path / "conflict.png") as picture:
        assert picture.width > 1000
    assert main(analyze("conflict")) == 2
    assert "this one has its decoder alone" in capsys.readouterr().err


def test_query_distribution(analyze, overrides, tmp_path, capsys):
    weights = tmp_path / "weights.pth"
    model = build(load("demo/family/cdn.py", overrides), "model")
    write_checkpoint(weights, {"model": model.state_dict()})
    words = ["analyze", "query-distribution", "--output", str(tmp_path), "--images", "4"]
    words += ["--pictures", "2", "--run", "cdn", "demo/family/cdn.py", *overrides]
    found = []
    for _ in range(2):
        assert main([*words, f"train.init_checkpoint={weights}", "--json"]) == 0
        found.append(rows_of(capsys))
    assert found[0] == found[1]
    (row,) = found[0]
    assert (row["run"], row["group"], row["images"]) == ("cdn", "denoising", 4)
    assert row["ratio"] == row["to matched"] / row["to unmatched"]
    assert len(list(tmp_path.glob("*_queries.png"))) == 2
    assert main(analyze("query-distribution")) == 2
    assert "this model has none" in capsys.readouterr().err


def test_instability(compared, overrides, tmp_path, capsys):
    folder, _ = compared
    content = read_checkpoint(folder / "mixed" / "seed3" / "model_final.pth")
    moved = {
        name: tensor + torch.randn(tensor.shape) if name.startswith("decoder") else tensor
        for name, tensor in content["model"].items()
    }
    versions = {1: content["model"], 2: moved, 3: moved}
    for iteration, weights in versions.items():
        checkpoint = {**content, "model": weights, "iteration": iteration}
        write_checkpoint(tmp_path / f"model_{iteration:07d}.pth", checkpoint)
    words = ["analyze", "instability", "--output", str(tmp_path), "--images", "4"]
    words += ["--run", "mixed", "demo/ms_detr.py", *overrides]
    assert main([*words, f"train.output_dir={tmp_path}", "--json"]) == 0
    rows = rows_of(capsys)
    assert [row["iteration"] for row in rows] == [3, 4]
    assert rows[0]["IS"] > 1
    assert rows[1]["IS"] == 0
    assert (tmp_path / "instability.png").is_file()
    assert main([*words, f"train.output_dir={tmp_path / 'none'}"]) == 2
    assert "holds 0 checkpoints, and two are compared" in capsys.readouterr().err
