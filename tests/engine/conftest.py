"""Fixtures of the engine's tests."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from ms_detr.cli import build_parser
from ms_detr.cli.train import task
from tests.engine.standin import CONFIG, overrides, write_dataset


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny COCO-format dataset; its name is the dataset's."""
    folder = tmp_path_factory.mktemp("tiny_dataset")
    write_dataset(folder)
    return folder


@pytest.fixture
def train(data: Path, tmp_path: Path) -> Callable[..., Mapping[str, Any]]:
    """Run the stand-in's config in this process: ``train("output", "--resume", "key=value")``."""

    def call(output: str, *arguments: str) -> Mapping[str, Any]:
        flags = [a for a in arguments if a.startswith("--")]
        opts = [a for a in arguments if not a.startswith("--")]
        opts = overrides(data, tmp_path / output, *opts)
        return task(build_parser().parse_args(["train", CONFIG, *opts, *flags]))()

    return call
