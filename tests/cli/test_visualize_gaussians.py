"""`ms-detr visualize gaussians`: bright where a head's Gaussian lies."""

import numpy as np
import pytest
import torch
from PIL import Image

from ms_detr.cli import main
from ms_detr.config import load
from ms_detr.engine.building import build

CONFIG = "demo/family/smca.py"
TITLE, SIDE, GAP = 24, 384, 8


@pytest.fixture(scope="module")
def planted(overrides, tmp_path_factory):
    """Weights of a model whose heads 0 and 1 look left and right, all queries alike."""
    model = build(load(CONFIG, overrides), "model")
    initializer = model.query_initializer
    with torch.no_grad():
        initializer.center[-1].weight.zero_()
        initializer.center[-1].bias.copy_(torch.tensor([0.0, 1.0986]))  # x 1/2, y 3/4
        (gaussians,) = model.decoder.layers[0].sublayers["cross_attention"].gaussians
        gaussians.offset.weight.zero_()
        cells = [[-4, 0], [4, 0], [0, 0], [200, 0]]
        gaussians.offset.bias.copy_(torch.tensor(cells).flatten())
    path = tmp_path_factory.mktemp("smca") / "model.pth"
    torch.save({"model": model.state_dict()}, path)
    return path


def words(weights, overrides, folder, *more):
    start = ["visualize", "gaussians", "--config-file", CONFIG, "--weights", str(weights)]
    return [*start, "--output", str(folder), "--count", "1", *more, *overrides]


def test_heads_are_bright_at_their_centres(planted, overrides, tmp_path, capsys):
    assert main(words(planted, overrides, tmp_path)) == 0
    assert "1 images drawn" in capsys.readouterr().out
    (file,) = tmp_path.glob("*_gaussians.png")
    picture = np.asarray(Image.open(file)).astype(float)
    assert picture.shape == (TITLE + SIDE, 4 * SIDE + 3 * GAP, 3)
    cells = SIDE / 16  # of stride 8, in 128 pixels
    for head, column in enumerate((4, 12, 8, 15)):  # the last one looks far beyond the border
        left = head * (SIDE + GAP)
        panel = picture[TITLE:, left : left + SIDE].mean(-1)
        # Means of the cells, without the lines of the box.
        means = np.array(
            [
                [np.median(panel[r : r + 12, c : c + 12]) for c in range(6, SIDE - 11, 24)]
                for r in range(6, SIDE - 11, 24)
            ]
        )
        assert cells == 24 and means.shape == (16, 16)
        row, found = np.unravel_index(means.argmax(), means.shape)
        assert found == column
        assert head == 3 or row == 12


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


def test_other_attention_has_no_maps(compared, overrides, tmp_path, capsys):
    folder, _ = compared
    weights = folder / "mixed" / "seed3" / "model_final.pth"
    arguments = words(weights, overrides, tmp_path)
    arguments[arguments.index(CONFIG)] = "demo/ms_detr.py"
    assert main(arguments) == 2
    assert "of modulated attention, SMCA's; this model has Deform" in capsys.readouterr().err
