"""`ms-detr visualize gaussians`: bright where a head's Gaussian lies."""

import numpy as np
import pytest
import torch
from PIL import Image

from ms_detr.cli import main
from ms_detr.config import load
from ms_detr.engine.building import build

CONFIG = "demo/family/smca.py"
SAM_SMCA = "demo/family/sam_smca.py"
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


def words(weights, overrides, folder, *more, config=CONFIG):
    start = ["visualize", "gaussians", "--config-file", config, "--weights", str(weights)]
    return [*start, "--output", str(folder), "--count", "1", *more, *overrides]


def means_of_cells(panel):
    """Of a panel's 16 x 16 cells of stride 8, without the lines of the box."""
    rows = panel.mean(-1).reshape(16, 24, 16, 24)[:, 6:18, :, 6:18]
    return np.median(rows.transpose(0, 2, 1, 3).reshape(16, 16, -1), -1)


def test_heads_are_bright_at_their_centres(planted, overrides, tmp_path, capsys):
    assert main(words(planted, overrides, tmp_path)) == 0
    assert "1 images drawn" in capsys.readouterr().out
    (file,) = tmp_path.glob("*_gaussians.png")
    picture = np.asarray(Image.open(file)).astype(float)
    assert picture.shape == (TITLE + SIDE, 4 * SIDE + 3 * GAP, 3)
    for head, column in enumerate((4, 12, 8, 15)):  # the last one looks far beyond the border
        left = head * (SIDE + GAP)
        means = means_of_cells(picture[TITLE:, left : left + SIDE])
        row, found = np.unravel_index(means.argmax(), means.shape)
        assert found == column
        assert head == 3 or row == 12


def test_heads_of_sam_detr_are_bright_at_their_points(overrides, tmp_path, capsys):
    """Boxes are the whole image; the heads' points are middles of cells, sharp around them."""
    cells = np.array([[2, 3], [12, 3], [5, 13], [10, 8]])
    model = build(load(SAM_SMCA, overrides), "model")
    with torch.no_grad():
        model.query_initializer.boxes.copy_(torch.tensor([0.0, 0.0, 20.0, 20.0]))
        last = model.decoder.layers[0].sublayers["cross_attention"].aligner.predictor[-1]
        last.weight.zero_()
        deltas = torch.from_numpy((cells + 0.5) / 8 - 1).atanh().flatten()
        last.bias.copy_(torch.cat((deltas, torch.full((8,), 2.0))))
    torch.save({"model": model.state_dict()}, tmp_path / "model.pth")
    assert main(words(tmp_path / "model.pth", overrides, tmp_path, config=SAM_SMCA)) == 0
    assert "1 images drawn" in capsys.readouterr().out
    (file,) = tmp_path.glob("*_gaussians.png")
    picture = np.asarray(Image.open(file)).astype(float)
    assert picture.shape == (TITLE + SIDE, 4 * SIDE + 3 * GAP, 3)
    for head, (x, y) in enumerate(cells):
        left = head * (SIDE + GAP)
        means = means_of_cells(picture[TITLE:, left : left + SIDE])
        assert np.unravel_index(means.argmax(), means.shape) == (y, x)


def test_sam_detr_without_modulation_has_no_maps(overrides, tmp_path, capsys):
    config = "demo/family/sam.py"
    model = build(load(config, overrides), "model")
    torch.save({"model": model.state_dict()}, tmp_path / "model.pth")
    assert main(words(tmp_path / "model.pth", overrides, tmp_path, config=config)) == 2
    assert "this model has SemanticAlignedAttention without" in capsys.readouterr().err


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
    assert "of modulated attention, SMCA's, or of SAM-DETR with" in capsys.readouterr().err
