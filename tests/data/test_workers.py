"""Batches out of worker processes: the same ones, also where these have no room, or die."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from itertools import islice
from multiprocessing import active_children

import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances

from ms_detr.data import build_test_loader, build_train_loader, workers
from ms_detr.data.workers import named_worker_errors, pack
from ms_detr.errors import MissingFileError, SystemLimitError, short_message

RECORDS = [{"number": number, "annotations": [{}]} for number in range(8)]


@pytest.fixture
def samples():
    instances = Instances((32, 40))
    instances.gt_boxes = Boxes(torch.rand(3, 4))
    instances.gt_classes = torch.tensor([1, 0, 5])
    instances.gt_masks = BitMasks(torch.rand(3, 32, 40) > 0.5)
    return [
        {"image": torch.arange(75, dtype=torch.uint8).view(3, 5, 5), "instances": instances},
        {
            "image": torch.rand(3, 4, 6).permute(2, 0, 1)[::2],  # neither contiguous nor whole
            "half": torch.rand(7).bfloat16(),
            "empty": torch.empty(0, 4),
            "scalar": torch.tensor(2.5, dtype=torch.float64),
            "array": np.arange(6.0).reshape(2, 3).T,
            "file_name": "ä.png",
            "parameter": torch.nn.Parameter(torch.ones(2)),
            "nothing": None,
        },
    ]


def same(one, other):
    if isinstance(one, Instances):
        one, other = one.get_fields(), other.get_fields()
        one["gt_boxes"], other["gt_boxes"] = one["gt_boxes"].tensor, other["gt_boxes"].tensor
        one["gt_masks"], other["gt_masks"] = one["gt_masks"].tensor, other["gt_masks"].tensor
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            same(one[key], other[key])
    elif isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype and type(one) is type(other) and torch.equal(one, other)
    else:
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("room", [True, False])
def test_a_parcel_holds_what_was_packed(samples, monkeypatch, room):
    if not room:
        monkeypatch.setattr(workers, "_shared", lambda *_: os.listdir("/dev/null/x"))
    parcel = pickle.loads(pickle.dumps(pack(samples)))
    assert (parcel.trouble is None) == room
    found = parcel.unpack()
    assert len(found) == len(samples)
    for one, other in zip(found, samples, strict=True):
        same(one, other)
    kept = samples[0]["image"].clone()
    found[1]["image"].fill_(7.0)  # a model may write to its input, and reaches nothing else
    same(found[0]["image"], kept)
    assert pack([]).unpack() == []
    assert pack([{"a": 1}]).unpack() == [{"a": 1}]


def can_mount():
    command = ["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/dev/shm"]
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def test_loaders_deliver_where_the_system_is_short(root):
    mount = can_mount()
    command = [*(["unshare", "-m"] if mount else []), sys.executable, "tests/data/scarce.py"]
    result = subprocess.run(
        [*command, *(["mount"] if mount else [])],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    train, test = found["expected"]
    assert len(train) == 16 and len(test) == 8
    assert found["few files"] == found["expected"]
    if not mount:
        pytest.skip("only the limit of files: mounting a file system is not permitted here")
    assert found["little memory"] == found["expected"]
    told = "doesn't fit into what is left of shared memory (/dev/shm has 1 MB"
    assert result.stderr.count(told) == 1
    assert "docker run --shm-size=8g" in result.stderr
    assert (
        "can't start 2 loader processes: No space left on device (/dev/shm has 1 MB, 0 free"
        in (found["no memory"])
    )


def make(record):
    return {"number": record["number"], "pid": os.getpid()}


def killing(record):
    if record["number"] == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return make(record)


def test_an_error_that_says_what_is_wrong_stays():
    """Whatever words the name of a file has in common with PyTorch's errors."""
    error = MissingFileError("there is no image file ancdata.png")
    with pytest.raises(MissingFileError, match=f"^{error}$"), named_worker_errors():
        raise error


@pytest.mark.parametrize("kind", ["train", "test"])
def test_a_worker_that_is_killed_is_named(kind):
    loader = (
        build_train_loader(RECORDS, killing, 2, num_workers=1)
        if kind == "train"
        else build_test_loader(RECORDS, killing, 2, num_workers=1)
    )
    start = time.monotonic()
    with pytest.raises(SystemLimitError, match="memory: lower num_workers") as error:
        for _ in islice(loader, 8):
            pass
    assert time.monotonic() - start < 30
    assert "most likely killed for want of memory" in str(error.value)
    assert short_message(error.value) == str(error.value)


@pytest.mark.parametrize(
    ("text", "kind", "parts"),
    [
        (
            "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that",
            SystemLimitError,
            ("(pid 7) is killed by signal: Bus error, most", "/dev/shm"),
        ),
        (
            "DataLoader worker (pid(s) 7, 8) exited unexpectedly",
            SystemLimitError,
            ("(pid 7, 8) exited unexpectedly, most",),
        ),
        ("received 0 items of ancdata", OSError, ("ulimit -n 4096", "num_workers")),
        ("Too many open files. Communication with the workers", OSError, ("ulimit -n 4096",)),
    ],
)
def test_what_is_behind_an_error_of_pytorch(text, kind, parts):
    with pytest.raises(kind) as error, named_worker_errors():
        raise RuntimeError(text)
    assert all(part in str(error.value) for part in parts), error.value
    with pytest.raises(RuntimeError, match="else"), named_worker_errors():
        raise RuntimeError("something else")


def test_a_batch_systems_sigterm_leaves_the_workers_to_the_training():
    loader = build_train_loader(RECORDS, make, 2, num_workers=1)
    batches = iter(loader)
    before = next(batches)[0]["pid"]
    for process in active_children():
        os.kill(process.pid, signal.SIGTERM)
    after = [next(batches)[0]["pid"] for _ in range(8)]
    assert set(after) == {before}


LEFT = """
import os, sys, time
from ms_detr.data import build_train_loader
def slow(record):
    if record["number"] == 7: time.sleep(600)
    return {"pid": os.getpid()}
records = [{"number": n, "annotations": [{}]} for n in range(8)]
loader = build_train_loader(records, slow, 8 if "hung" in sys.argv else 1, num_workers=1)
batches = iter(loader)
if "hung" in sys.argv: time.sleep(0.5)
else: next(batches)
print("done")
"""


@pytest.mark.parametrize("state", ["idle", pytest.param("hung", marks=pytest.mark.slow)])
def test_workers_that_are_left_do_not_keep_python_from_its_end(state):
    result = subprocess.run(
        [sys.executable, "-c", LEFT, state],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "done\n", "")
