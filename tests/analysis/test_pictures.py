"""Heat maps and curves as pictures."""

import numpy as np
import pytest
import torch
from PIL import Image

from ms_detr.analysis import Separation
from ms_detr.visualization import draw_curves, draw_scores


@pytest.fixture
def record(tmp_path):
    Image.fromarray(np.full((60, 90, 3), 90, np.uint8)).save(tmp_path / "grey.png")
    return {"file_name": str(tmp_path / "grey.png"), "image_id": 7, "height": 60, "width": 90}


def test_heat_maps_are_bright_where_the_score_is(record, tmp_path):
    """One panel a model, each with its own score, whatever size that has."""
    left, low = np.zeros((30, 45), np.float32), np.zeros((120, 180), np.float32)
    left[:, :22], low[60:] = 1.0, 1.0
    file = draw_scores(record, "none", {"left": left, "low": low}, tmp_path / "scores.png")
    picture = np.asarray(Image.open(file).convert("L")).astype(float)
    height, width = 384, 576
    panels = [picture[24:, x : x + width] for x in (0, width + 8, 2 * (width + 8))]
    assert [panel.shape for panel in panels] == [(height, width)] * 3
    plain, of_left, of_low = panels
    assert np.ptp(plain[10:-10, 10:-10]) < 3
    assert of_left[:, :250].min() > of_left[:, 326:].max() + 50
    assert of_low[230:].min() > of_low[:154].max() + 50


def test_curves(tmp_path):
    separation = Separation()
    inside = torch.rand(30, 30) > 0.5
    separation.add(torch.rand(30, 30) * 0.5 + 0.5 * inside, inside)
    file = draw_curves({"one": separation.curve()}, "encoder", "below", tmp_path / "curves.png")
    pixels = np.asarray(Image.open(file).convert("RGB")).astype(int)
    blue = np.abs(pixels - (31, 119, 180)).max(-1) < 40
    assert blue.sum() > 200
