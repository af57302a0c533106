"""Heat maps and curves as pictures."""

import numpy as np
import pytest
import torch
from PIL import Image

from ms_detr.analysis import QueryPlaces, Separation
from ms_detr.analysis.queries import Placed
from ms_detr.visualization import (
    draw_conflicts,
    draw_curves,
    draw_instability,
    draw_query_places,
    draw_scores,
)


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


def test_conflicts(tmp_path):
    matrix = np.array([[0.0, 0.5], [0.25, 0.0]])
    runs = {"one": (("decoder", "atss"), matrix), "two": (("decoder", "atss"), 0 * matrix)}
    picture = np.asarray(Image.open(draw_conflicts(runs, tmp_path / "conflict.png")).convert("L"))
    left, right = np.split(picture[:, : picture.shape[1] // 2 * 2], 2, axis=1)
    # The larger of the two lies at the top right, and nothing is shaded where all are 0.
    assert ((left > 110) & (left < 190)).sum() > 20 * ((right > 110) & (right < 190)).sum()


def test_query_places(record, tmp_path):
    primary = Placed(torch.tensor([[0.25, 0.5], [0.9, 0.9]]), torch.tensor([0, 2]))
    group = Placed(torch.tensor([[0.3, 0.5], [0.75, 0.5]]), torch.tensor([0, 1]))
    places = QueryPlaces(primary, {"atss": group}, 2)
    file = draw_query_places(record, 0, {"one": places}, tmp_path / "places.png")
    pixels = np.asarray(Image.open(file).convert("RGB")).astype(int)
    width = pixels.shape[1]
    red = np.abs(pixels - (255, 0, 0)).max(-1) < 60
    blue = np.abs(pixels - (31, 119, 180)).max(-1) < 60
    upper = slice(0, pixels.shape[0] * 2 // 3)  # the legend is below
    for color in (red, blue):
        columns = np.nonzero(color[upper])[1]
        assert len(columns) > 10
        assert columns.max() < width * 0.45  # that of the other object isn't drawn


def test_instabilities(tmp_path):
    file = draw_instability({"one": [(9, 4.0), (19, 2.0)]}, tmp_path / "instability.png")
    pixels = np.asarray(Image.open(file).convert("RGB")).astype(int)
    rows, columns = np.nonzero(np.abs(pixels - (31, 119, 180)).max(-1) < 40)
    plotted = columns < pixels.shape[1] * 0.8
    assert rows[plotted][columns[plotted].argmin()] < rows[plotted][columns[plotted].argmax()]
