"""`ms-detr visualize salient-points`: points in their colours, and bright where a head attends."""

import numpy as np
import pytest
import torch
from matplotlib import colormaps
from PIL import Image

from ms_detr.cli import main
from ms_detr.config import load
from ms_detr.engine.building import build

CONFIG = "demo/family/sam_smca.py"
TITLE, SIDE, GAP = 24, 384, 8
POINTS = ((0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75))  # of the box, the whole image


@pytest.fixture(scope="module")
def planted(overrides, tmp_path_factory):
    """Weights of a model whose heads look at the middles of the image's quarters."""
    model = build(load(CONFIG, overrides), "model")
    with torch.no_grad():
        model.query_initializer.boxes.copy_(torch.tensor([0.0, 0.0, 20.0, 20.0]))
        last = model.decoder.layers[0].sublayers["cross_attention"].aligner.predictor[-1]
        last.weight.zero_()
        deltas = (2 * torch.tensor(POINTS) - 1).atanh().flatten()
        last.bias.copy_(torch.cat((deltas, torch.full((8,), 2.0))))  # and sharp maps
    path = tmp_path_factory.mktemp("sam") / "model.pth"
    torch.save({"model": model.state_dict()}, path)
    return path


def words(weights, overrides, folder, *more):
    start = ["visualize", "salient-points", "--config-file", CONFIG, "--weights", str(weights)]
    return [*start, "--output", str(folder), "--count", "1", *more, *overrides]


def test_heads_are_bright_at_their_points(planted, overrides, tmp_path, capsys):
    assert main(words(planted, overrides, tmp_path, "--query", "3", "--query", "0")) == 0
    assert "1 images drawn" in capsys.readouterr().out
    (file,) = tmp_path.glob("*_salient_points.png")
    picture = np.asarray(Image.open(file)).astype(float)
    height, width = TITLE + SIDE, 5 * SIDE + 4 * GAP
    assert picture.shape == (2 * height + GAP, width, 3)
    for head, (x, y) in enumerate(POINTS):
        color = np.array(colormaps["tab10"](head)[:3]) * 255
        for column in (0, head + 1):  # all of them on the first panel
            place = picture[TITLE + int(y * SIDE), column * (SIDE + GAP) + int(x * SIDE)]
            np.testing.assert_allclose(place, color, atol=40)
        left = (head + 1) * (SIDE + GAP)
        panel = picture[TITLE:height, left : left + SIDE].mean(-1)
        # Quarters, without the circles' middles and the lines of the box.
        means = [
            np.mean(
                panel[
                    int(v * SIDE) + 12 : int(v * SIDE) + 20, int(u * SIDE) - 20 : int(u * SIDE) + 20
                ]
            )
            for u, v in POINTS
        ]
        assert int(np.argmax(means)) == head


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--query", "20"], "there are queries 0 to 19, not 20"),
        (["--layer", "1"], "there are layers 0 to 0, not 1"),
    ],
)
def test_what_is_not_there(planted, overrides, tmp_path, capsys, more, message):
    assert main(words(planted, overrides, tmp_path, *more)) == 2
    assert message in capsys.readouterr().err


def test_other_attention_has_no_points(compared, overrides, tmp_path, capsys):
    folder, _ = compared
    arguments = words(folder / "mixed" / "seed3" / "model_final.pth", overrides, tmp_path)
    arguments[arguments.index(CONFIG)] = "demo/ms_detr.py"
    assert main(arguments) == 2
    assert "salient points are of SAM-DETR; this model has Deform" in capsys.readouterr().err
