"""Whole runs on data with bad image files."""

from pathlib import Path

import pytest

from ms_detr.data import ImageError
from tests.engine.standin import write_dataset


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A dataset whose last image is no image."""
    write_dataset(tmp_path / "broken")
    (tmp_path / "broken" / "images" / "011.png").write_text("hello")
    return tmp_path / "broken"


def use(folder: Path, loader: str) -> list[str]:
    """Overrides of the stand-in's config, where the dataset of the test is a link."""
    values = {
        "_target_": "ms_detr.data.coco_dataset",
        "name": f"{loader}_{folder.parent.name}",
        "images": folder / "images",
        "annotations": folder / "annotations.json",
        "check_images": "true",
    }
    node = f"dataloader.{loader}.dataset"
    text = ",".join(f"{key}:{value}" for key, value in values.items())
    return [f"~{node}", f"+{node}={{{text}}}"]


@pytest.mark.parametrize("loader", ["train", "test"])
def test_a_bad_file_ends_a_run_before_training(train, data, broken, tmp_path, loader):
    good = {"train": "test", "test": "train"}[loader]
    with pytest.raises(ImageError, match=r"1 of 12 image files can't .* image 11: .*011\.png"):
        train("out", *use(data, good), *use(broken, loader))
    assert not (tmp_path / "out" / "metrics.json").exists()


def test_training_passes_over_as_many_as_it_may(train, data, broken, tmp_path):
    keys = [
        *use(data, "test"),
        *use(broken, "train"),
        "dataloader.train.dataset.check_images=false",
    ]
    with pytest.raises(ImageError, match=r"011\.png.*max_bad_images, now 0"):
        train("none", *keys)
    results = train("one", *keys, "+dataloader.train.max_bad_images=1")
    assert results["bbox"]["AP"] >= 0
    log = (tmp_path / "one" / "log.txt").read_text()
    assert log.count("bad image 1 of at most 1: image 11 of dataset") == 1
