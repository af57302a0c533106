"""A run of the stand-in detector, whose class names would like to be HTML."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ms_detr.config import load
from ms_detr.engine import Origin, train
from tests.engine.standin import CONFIG, overrides, write_dataset

from .chromium import started

SCRIPT = "<script>document.title='pwned'</script>"


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny dataset, with a class named like a script."""
    folder = tmp_path_factory.mktemp("data_of_reports")
    write_dataset(folder)
    path = folder / "annotations.json"
    path.write_text(path.read_text().replace('"square"', f'"{SCRIPT}"'))
    return folder


@pytest.fixture(scope="session")
def run_folder(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run with an average of its weights, and its report."""
    output = tmp_path_factory.mktemp("report") / "a run & its <folder>"
    options = overrides(
        data,
        output,
        "train.report=true",
        "+train.ema={decay: 0.5}",
        "+dataloader.evaluator.nms_threshold=0.5",
        "train.eval_epochs=1",
    )
    train(load(CONFIG, options), origin=Origin(CONFIG, options))
    return output


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    driver = started(tmp_path_factory.mktemp("profile"))
    yield driver
    driver.quit()
