"""Trained models for the verbs that need some."""

import pytest

from ms_detr.cli import main
from tests.tiny_demo import on_demo_data

CONFIG = "demo/ms_detr.py"
BASELINE = "demo/deformable_detr.py"


@pytest.fixture(scope="session")
def overrides(demo_dataset):
    """A demo config on a few images, a model that steps in milliseconds."""
    return [
        *on_demo_data(demo_dataset, "tiny"),
        "dataloader.train.total_batch_size=2",
        "dataloader.train.num_workers=0",
        "model.encoder.num_layers=1",
        "model.decoder.num_layers=1",
        "model.num_queries=20",
        "train.device=cpu",
        "train.max_iter=2",
        "train.report=false",
        "train.pictures=0",
    ]


@pytest.fixture(scope="session")
def compared(overrides, tmp_path_factory):
    """Two configs trained for two iterations; the folder and what was printed."""
    folder = tmp_path_factory.mktemp("compare")
    words = ["compare", "--output", str(folder), "--seeds", "3", "--jobs", "2"]
    for name, config in (("baseline", BASELINE), ("mixed", CONFIG)):
        words += ["--run", name, config, *overrides]
    assert main(words) == 0
    return folder, words
