"""Processes that are started, or can't be; and their errors."""

import logging
import sys

import pytest
import torch
from detectron2.utils import comm

from ms_detr.cli import run_command
from ms_detr.data import coco_dataset
from ms_detr.engine import launch
from ms_detr.engine.spawn import set_local_group
from ms_detr.errors import MissingFileError


def fail(kind):
    if kind == "user" and comm.get_rank() == 1:
        coco_dataset("nothing", "nowhere", "nowhere.json")
    if kind == "bug" and comm.get_rank() == 1:
        [][0]
    comm.synchronize()


@pytest.mark.slow
def test_error_of_a_process_reaches_the_parent(capsys):
    caught = []

    def command():
        try:
            launch(fail, ("user",), num_processes=2, device="cpu")
        except Exception as error:
            caught.append(error)
            raise

    assert run_command(command, debug=True) == 2
    with pytest.raises(MissingFileError) as expected:
        coco_dataset("nothing", "nowhere", "nowhere.json")
    assert type(caught[0]) is MissingFileError and str(caught[0]) == str(expected.value)
    shown = capsys.readouterr().err
    assert shown.endswith(f"error: {expected.value}\n")
    # Of both processes: where it was raised, and where it arrived.
    assert ", in coco_dataset\n" in shown and ", in spawn\n" in shown
    assert shown.count("The above exception was the direct cause") == 1
    with pytest.raises(torch.multiprocessing.ProcessRaisedException, match="IndexError"):
        launch(fail, ("bug",), num_processes=2, device="cpu")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_machines": 2}, "--dist-url"),
        ({"num_machines": 2, "machine_rank": 2}, "ranks at 0"),
        ({"num_processes": 0}, "counts start at 1"),
        ({"device": "cuda"}, "no CUDA device"),
        ({"device": "gpu"}, "train.device must be auto, cpu"),
        ({"device": None}, "train.device must be auto, cpu"),
    ],
)
def test_impossible_launch(options, message):
    if torch.cuda.is_available() and options == {"device": "cuda"}:
        pytest.skip("there is a CUDA device")
    with pytest.raises(ValueError, match=message):
        launch(fail, ("no",), **options)


def test_newer_detectron2_makes_its_local_group_itself(monkeypatch):
    calls = []
    monkeypatch.setattr(comm, "create_local_process_group", calls.append, raising=False)
    set_local_group(2)
    assert calls == [2]


def test_processes_without_a_gpu_are_warned_of(monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    module = sys.modules["ms_detr.engine.launch"]  # in its package the name is the function's
    monkeypatch.setattr(module, "spawn", lambda *args: None)
    monkeypatch.setattr(logging.getLogger("ms_detr"), "propagate", True)
    launch(fail, ("no",), num_processes=8, device="cpu")
    assert not caplog.messages
    launch(fail, ("no",), num_processes=8)
    assert "--num-gpus 8 starts as many processes on the CPU" in caplog.text


def test_one_process_needs_no_group():
    assert launch(lambda a: (a, comm.get_world_size()), (3,)) == (3, 1)
