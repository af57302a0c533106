"""The benchmark of training loaders."""

import json
import math
import time

import pytest

from ms_detr.benchmarks.loading import OBJECTS, _made, measure_loading
from ms_detr.cli import main
from ms_detr.config import load
from ms_detr.data import DetrMapper
from ms_detr.engine.building import build
from ms_detr.errors import ConfigError

CONFIG = "demo/ms_detr.py"
NAP = 0.1
WORK = 0.03


class Slow(DetrMapper):
    """Takes a known time for each image, in most of which a CPU is free for others.

    The first image of a process takes longer.
    """

    def __call__(self, record):
        time.sleep(NAP)
        end = time.process_time() + (WORK if vars(self).get("warm") else 20 * WORK)
        while time.process_time() < end:
            pass
        self.warm = True
        return super().__call__(record)


@pytest.mark.slow
def test_images_a_second_are_those_of_the_processes():
    options = [
        f"dataloader.train.mapper._target_={__name__}.Slow",
        "dataloader.train.mapper.augmentations.flip=0",
        "dataloader.train.total_batch_size=2",
    ]
    rows = measure_loading(CONFIG, options, images=8, rounds=1)
    assert [row["loader processes"] for row in rows] == [0, 1, 2]
    for row, processes in zip(rows, (1, 1, 2), strict=True):
        assert 0.1 * processes / NAP < row["images/s"] < 1.25 * processes / NAP
        assert row["images/s a process"] == row["images/s"] / processes
        assert row["ratio"] == row["images/s"] / rows[0]["images/s"]
        # Linux counts a process's time in hundredths; files are decoded, too.
        assert 0.8 * WORK < row["CPU ms an image"] * 1e-3 < 3 * WORK


@pytest.mark.parametrize("masks", [False, True])
def test_the_files_are_like_cocos(tmp_path, masks):
    cfg = load("demo/ms_detr_masks.py" if masks else CONFIG)
    cfg.dataloader.train.dataset = _made(tmp_path, 3, masks)
    cfg.dataloader.train.mapper.augmentations = []
    records = build(cfg, "dataloader.train.dataset")
    assert all(130e3 < path.stat().st_size < 190e3 for path in tmp_path.glob("*.jpg"))
    assert len(records) == 3
    image = build(cfg, "dataloader.train.mapper")(records[0])
    assert image["image"].shape == (3, 480, 640)
    things = image["instances"]
    assert len(things) == OBJECTS and things.has("gt_masks") == masks
    if masks:  # of ellipses, whose outline has 32 corners
        areas = things.gt_masks.tensor.sum((1, 2))
        sizes = things.gt_boxes.area() * 32 / 8 * math.sin(2 * math.pi / 32)
        assert areas.tolist() == pytest.approx(sizes.tolist(), rel=0.05, abs=20)


def test_the_command(capsys):
    words = ["benchmark", "loading", "--json", "--config-file", CONFIG, "--workers", "0"]
    words += ["--images", "2", "--rounds", "2", "--opts", "dataloader.train.total_batch_size=2"]
    assert main(words) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["ratio"] == 1 and row["images/s"] == row["images/s a process"] > 0


def test_a_config_without_a_loader_of_its_own(tmp_path):
    path = tmp_path / "other.py"
    path.write_text("dataloader = dict(train=dict(batches=3))\n")
    with pytest.raises(ConfigError, match=r"other\.py has no dataloader\.train\.dataset"):
        measure_loading(str(path))
