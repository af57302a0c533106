"""`ms-detr visualize`, on a few generated images."""

import json

import numpy as np
import pytest
import yaml
from PIL import Image

from ms_detr.cli import main
from ms_detr.errors import ConfigError
from ms_detr.visualization.losses import draw_losses, read_losses

PANEL = 384 + 24  # pixels of an image and its title
CONFIG = "demo/ms_detr.py"
BASELINE = "demo/deformable_detr.py"


def weights_of(folder, name):
    return str(folder / name / "seed3" / "model_final.pth")


def predictions_to(folder):
    return ["visualize", "predictions", "--config-file", CONFIG, "--output", str(folder)]


def test_visualize_draws_pairs_and_a_sheet(compared, overrides, tmp_path, capsys):
    folder, _ = compared
    words = [*predictions_to(tmp_path), "--count", "3"]
    weights = weights_of(folder, "mixed")
    assert main([*words, "--weights", weights, "--threshold", "0", *overrides]) == 0
    assert "3 images drawn" in capsys.readouterr().out
    single = [path for path in tmp_path.glob("*.png") if path.name != "predictions.png"]
    assert len(single) == 3
    with Image.open(single[0]) as pair, Image.open(tmp_path / "predictions.png") as sheet:
        left, right = pair.crop((0, 24, 384, PANEL)), pair.crop((392, 24, 776, PANEL))
        assert pair.size == (776, PANEL)
        assert left.tobytes() != right.tobytes()
        assert sheet.width > 2 * pair.width


def test_visualize_annotated_masks(compared, overrides, tmp_path):
    folder, _ = compared
    words = ["visualize", "predictions", "--config-file", CONFIG, "--count", "2"]
    words += ["--weights", weights_of(folder, "mixed"), *overrides, "--output"]
    pictures = {}
    for masks in ("false", "true"):
        output = tmp_path / masks
        assert main([*words[:-1], f"dataloader.masks={masks}", "--output", str(output)]) == 0
        files = sorted(path for path in output.glob("*.png") if path.name != "predictions.png")
        pictures[masks] = [np.asarray(Image.open(file)).astype(int) for file in files]
    # Boxes and names are the same.
    for plain, painted in zip(pictures["false"], pictures["true"], strict=True):
        assert plain.shape == painted.shape
        left, right = np.split((plain != painted).any(-1), 2, axis=1)
        assert left.mean() > right.mean() + 0.05


def test_visualize_refuses_weights_of_another_model(compared, overrides, tmp_path, capsys):
    folder, _ = compared
    weights = weights_of(folder, "mixed")
    words = [*predictions_to(tmp_path), "--weights", weights]
    assert main([*words, *overrides, "model.num_classes=7"]) == 2
    assert "num_classes" in capsys.readouterr().err


@pytest.mark.parametrize(("view", "panels", "rows"), [("assignments", 1, 2), ("sampling", 1, 1)])
def test_visualize_the_insides(compared, overrides, tmp_path, capsys, view, panels, rows):
    """A column a decoder layer (one here); for assignments a row for o2o and one for o2m."""
    folder, _ = compared
    words = ["visualize", view, "--config-file", CONFIG, "--weights", weights_of(folder, "mixed")]
    assert main([*words, "--output", str(tmp_path), "--count", "2", *overrides]) == 0
    assert "2 images drawn" in capsys.readouterr().out
    files = sorted(tmp_path.glob(f"*_{view}.png"))
    assert len(files) == 2
    with Image.open(files[0]) as picture:
        assert picture.size == (384 * panels + 8 * (panels - 1), PANEL * rows + 8 * (rows - 1))


def test_visualize_a_query_that_is_not_there(compared, overrides, tmp_path, capsys):
    folder, _ = compared
    words = ["visualize", "sampling", "--config-file", CONFIG, "--query", "20", "--output"]
    words += [str(tmp_path), "--weights", weights_of(folder, "mixed"), *overrides]
    assert main(words) == 2
    assert "there are queries 0 to 19, not 20" in capsys.readouterr().err


def test_visualize_candidates_side_by_side(compared, overrides, tmp_path, capsys):
    folder, _ = compared
    words = ["visualize", "candidates", "--output", str(tmp_path), "--count", "2"]
    for name, config in (("baseline", BASELINE), ("mixed", CONFIG)):
        words += ["--run", name, config, weights_of(folder, name)]
    assert main([*words, *overrides]) == 0
    assert "2 images drawn" in capsys.readouterr().out
    files = sorted(tmp_path.glob("*_candidates.png"))
    with Image.open(files[0]) as picture:
        assert picture.size == (3 * 384 + 2 * 8, PANEL)
        truth, *models = (picture.crop((x, 24, x + 384, PANEL)).tobytes() for x in (0, 392, 784))
        assert len({truth, *models}) == 3


def test_visualize_losses_of_runs(compared, tmp_path, capsys):
    folder, _ = compared
    words = ["visualize", "losses", "--output", str(tmp_path / "losses.png")]
    for name in ("baseline", "mixed"):
        words += ["--run", name, str(folder / name / "seed3")]
    assert main(words) == 0
    with Image.open(tmp_path / "losses.png") as picture:
        assert picture.width > 1000
    assert main([*words, "--run", "none", str(tmp_path)]) == 2
    assert "metrics.json is missing: give the train.output_dir of a run" in capsys.readouterr().err


def test_a_loss_that_was_logged_once_is_a_point(tmp_path):
    term = {"weight": 1.0, "losses": {"class": {"weight": 1.0}, "bbox": {"weight": 1.0}}}
    config = {"model": {"criterion": {"terms": {"o2o": term}}}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    line = {"iteration": 9, "o2o/loss_class/0": 4.0, "o2o/loss_bbox/0": 10.0}
    (tmp_path / "metrics.json").write_text(json.dumps(line))
    picture = Image.open(draw_losses({"run": tmp_path}, tmp_path / "losses.png")).convert("RGB")
    with pytest.raises(ConfigError, match=r"losses\.xyz: pictures end in .*png.*, not in xyz"):
        draw_losses({"run": tmp_path}, tmp_path / "losses.xyz")
    # In the middle of both charts, where one point lies.
    for left in (0, picture.width // 2):
        middle = picture.crop((left + 150, 100, left + picture.width // 2 - 150, 300))
        pixels = np.asarray(middle).astype(int)
        assert np.ptp(pixels, axis=2).max() > 99  # coloured, as the grid isn't


def test_visualize_wants_a_name_of_its_own_for_every_run(tmp_path, capsys):
    words = ["visualize", "losses", "--output", str(tmp_path / "losses.png")]
    assert main([*words, "--run", "a", "x", "--run", "a", "y"]) == 2
    assert "--run: every run needs a name of its own" in capsys.readouterr().err


def test_losses_are_read_without_their_weights(tmp_path):
    """Summed over layers; runs differ in weights, which is not what the curves are to show."""
    loss = {
        "class": {"weight": 2.0},
        "bbox": {"weight": 5.0},
        "giou": {"weight": 0.5},
        "_target_": "x",
    }
    term = {"weight": 2.0, "losses": loss}
    config = {"model": {"criterion": {"terms": {"o2o": term}}}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    line = {"iteration": 9, "o2o/loss_class/0": 4.0, "o2o/loss_class/1": 8.0, "o2o/loss": 99.0}
    line |= {"o2o/loss_bbox/0": 10.0, "o2o/loss_giou/1": 3.0, "o2m/loss_class/0": 50.0}
    half = json.dumps(line)[:20]  # of a run that is writing it
    (tmp_path / "metrics.json").write_text(f'{json.dumps(line)}\n{{"AP": 3}}\n{half}')
    assert read_losses(tmp_path) == {"classification": [(9, 3.0)], "box": [(9, 4.0)]}
    (tmp_path / "metrics.json").write_text(json.dumps({"iteration": 1}))
    with pytest.raises(ValueError, match="no losses of the term 'o2o'"):
        read_losses(tmp_path)
