"""What is shown as one line, and what keeps its traceback."""

import importlib
import pickle
import pkgutil
import sys
import traceback
from pathlib import Path

import pytest
import torch

import ms_detr
from ms_detr.config import load
from ms_detr.convert import convert_state_dict
from ms_detr.data import DetrMapper, class_names, coco_dataset
from ms_detr.data.images import ImageError
from ms_detr.data.segmentation import parse
from ms_detr.data.workers import WorkerLoader
from ms_detr.engine import weights
from ms_detr.engine.archive import read_checkpoint
from ms_detr.engine.weights import state_of
from ms_detr.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    MissingFileError,
    MissingPackageError,
    SentError,
    SystemLimitError,
    UserError,
    short_message,
)
from ms_detr.evaluation import CocoEvaluator, UnwrittenError
from ms_detr.recipes._guard import UndoneError

SWIN_T = (
    "https://github.com/SwinTransformer/storage/releases/download/v1.0.0/"
    "swin_tiny_patch4_window7_224.pth"
)


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
    ("kind", "call"),
    [
        (ConfigError, lambda: load("configs/demo/ms_detr.py", ["train.seeds=1"])),
        (ConfigError, lambda: DetrMapper([], image_format="CMYK")),
        (ConfigError, lambda: coco_dataset("nothing", images="a")),
        (ConfigError, lambda: CocoEvaluator("nothing", nms_threshold=2)),
        (ConfigError, lambda: convert_state_dict({}, "nothing")),
        (CheckpointError, lambda: convert_state_dict({"a": torch.zeros(1)}, "ms-detr")),
        (CheckpointError, lambda: state_of({}, "a.pth")),
        (MissingFileError, lambda: read_checkpoint("nothing.pth")),
        (DataError, lambda: class_names("nothing")),
        (DataError, lambda: parse([[1, 2, 3]], 4, 4)),
    ],
)
def test_kinds_say_what_is_wrong(kind, call):
    """A config, a checkpoint or data: whoever catches one of them doesn't catch the others."""
    assert type(caught(call)) is kind


@pytest.mark.parametrize(
    "call",
    [
        lambda: int("a"),  # out of Python
        lambda: torch.zeros(2).view(3),  # out of a library
        lambda: coco_dataset(3, 4, 5),  # a slip while our code runs: it raised nothing on purpose
        lambda: DetrMapper([])({}),
        lambda: 1 / 0,
        lambda: {}["key"],
        lambda: raise_(OSError("out of a library, about no file")),
        lambda: raise_(RuntimeError("out of a library")),
    ],
)
def test_other_errors_keep_their_traceback(call):
    assert short_message(caught(call)) is None


@pytest.mark.parametrize("call", [ms_detr.train, lambda cfg: ms_detr.evaluate(cfg, SWIN_T)])
def test_a_missing_package_is_told_before_weights_are_downloaded(tmp_path, monkeypatch, call):
    def download(url):
        raise AssertionError(url)

    monkeypatch.setattr(weights, "download", download)
    monkeypatch.setitem(sys.modules, "timm", None)
    overrides = [f"train.output_dir={tmp_path}", "train.device=cpu"]
    cfg = load("ms_detr/ms_detr_pp_swin_t_300q_12ep.py", overrides)
    assert cfg.train.init_checkpoint == SWIN_T
    with pytest.raises(MissingPackageError, match="needs timm"):
        call(cfg)


def kinds_of(kind):
    """A kind of error and all below it, in all modules."""
    for module in pkgutil.walk_packages(ms_detr.__path__, "ms_detr."):
        if ".configs." not in module.name and not module.name.startswith("ms_detr.ops._C"):
            importlib.import_module(module.name)
    below = [kind]
    for each in below:
        below += each.__subclasses__()
    return below


# What kinds with arguments of their own are made of.
ARGUMENTS = {UnwrittenError: ("full", {"bbox": {"AP": 1.0}}), UndoneError: ("dino", ["a", "b"])}


def test_every_kind_travels_with_its_attributes():
    kinds = kinds_of(UserError)
    assert {MissingFileError, ImageError, *ARGUMENTS} <= set(kinds)
    errors = [kind(*ARGUMENTS.get(kind, ("what is wrong",))) for kind in kinds]
    errors.append(SystemLimitError(28, "No space left", "/a/file"))  # as the system writes them
    errors.append(MissingPackageError("no timm", name="timm"))
    for error in errors:
        error.noted = [1, 2]
        back = pickle.loads(pickle.dumps(error))
        assert type(back) is type(error) and short_message(back) == str(back) == str(error)
        assert back.args == error.args and back.__dict__ == error.__dict__
        for attribute in ("errno", "strerror", "filename", "name"):
            assert getattr(back, attribute, None) == getattr(error, attribute, None)


def test_an_error_from_elsewhere_brings_its_traceback():
    there = caught(lambda: load("nothing.yaml"))
    sent = pickle.loads(pickle.dumps(SentError.of(there)))
    here = caught(lambda: raise_(sent.received()))
    assert type(here) is type(there) and str(here) == str(there)
    assert "ms_detr/config.py" in str(here.__cause__)
    assert str(here.__cause__).endswith(f"{type(there).__name__}: {there}\n")


def raise_(error):
    raise error


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
    assert ", in open_image" in "".join(traceback.format_exception(error))
    assert short_message(error) == "image 3 of dataset 'unnamed': there is no image file gone.png"
    (tmp_path / "a.png").write_text("no image")
    error = error_of({"file_name": tmp_path / "a.png", "image_id": 3})
    assert type(error) is ImageError
    message = short_message(error)
    assert message.startswith(f"image 3 of dataset 'unnamed': {tmp_path}/a.png can't be read as an")
    error = error_of({})
    assert type(error) is KeyError and short_message(error) is None
