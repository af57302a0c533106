"""`ms-detr analyze`, on a few generated images."""

import json

import pytest
from PIL import Image

from ms_detr.cli import main

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
