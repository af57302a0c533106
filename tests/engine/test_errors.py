"""What is shown as one line, and what keeps its traceback."""

from pathlib import Path

import pytest
import torch

from ms_detr.config import load
from ms_detr.data import DetrMapper, coco_dataset
from ms_detr.data.images import ImageError
from ms_detr.data.workers import WorkerLoader
from ms_detr.engine import run_command
from ms_detr.errors import MissingFileError, short_message


def caught(call):
    with pytest.raises(Exception) as error:
        call()
    return error.value


def test_errors_that_our_code_raises_are_short():
    error = caught(lambda: load("nothing.yaml"))
    assert short_message(error) == str(error)
    error = caught(lambda: coco_dataset("nothing", "a", "b.json"))
    assert short_message(error) == str(error)
    # The operating system about a file: it needs no traceback either.
    error = caught(lambda: Path("/dev/null/x").read_text())
    assert short_message(error) == "/dev/null/x: Not a directory"


@pytest.mark.parametrize(
    "call",
    [
        lambda: int("a"),  # out of Python
        lambda: torch.zeros(2).view(3),  # out of a library
        lambda: coco_dataset(3, 4, 5),  # a slip while our code runs: it raised nothing on purpose
        lambda: DetrMapper([])({}),
        lambda: 1 / 0,
    ],
)
def test_other_errors_keep_their_traceback(call):
    assert short_message(caught(call)) is None


class Broken(torch.utils.data.Dataset):
    def __init__(self, record):
        self.record = record

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return DetrMapper([])(self.record)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_errors_of_a_loader_are_the_same_with_and_without_workers(tmp_path, num_workers):
    def error_of(record):
        loader = WorkerLoader(Broken(record), num_workers=num_workers)
        return caught(lambda: next(iter(loader)))

    error = error_of({"file_name": "gone.png", "image_id": 3})
    assert type(error) is MissingFileError
    assert short_message(error) == "image 3 of dataset 'unnamed': there is no image file gone.png"
    (tmp_path / "a.png").write_text("no image")
    error = error_of({"file_name": tmp_path / "a.png", "image_id": 3})
    assert type(error) is ImageError
    message = short_message(error)
    assert message.startswith(f"image 3 of dataset 'unnamed': {tmp_path}/a.png can't be read as an")
    error = error_of({})
    assert type(error) is KeyError and short_message(error) is None


def test_run_command(capsys):
    def bad():
        load("nothing.yaml")

    assert run_command(lambda: None) == 0
    assert run_command(bad) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.count("\n") == 1
    assert shown.err.startswith("error: config nothing.yaml: YAML configs are not loaded")
    assert run_command(bad, debug=True) == 2
    assert "Traceback" in capsys.readouterr().err

    def interrupted():
        raise KeyboardInterrupt

    assert run_command(interrupted) == 130
    assert capsys.readouterr().err == "interrupted\n"
    with pytest.raises(ZeroDivisionError):
        run_command(lambda: 1 / 0)
