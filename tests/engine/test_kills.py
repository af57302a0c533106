"""Two processes that are interrupted, each in another way, and end as if they had not been."""

import os
import signal
import subprocess
import sys

import pytest
import torch

from ms_detr.engine import read_checkpoint

from .standin import CONFIG, overrides
from .test_run import curve
from .test_train_net import TORCHRUN

pytestmark = pytest.mark.slow

SCRIPT = """
import os, signal, sys, time
from ms_detr.cli import main
from ms_detr.signals import termination
from tests.engine.standin import in_step

def be_told(number):
    os.kill(os.getpid(), number)
    while not termination.requested:  # a thread notes it, in its own time
        time.sleep(0.01)

{patches}

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
"""
OPTIONS = (
    "+train.accumulate=2",
    "+train.ema={decay: 0.75}",
    "train.checkpoint_epochs=0.34",
    "train.eval_epochs=0",
)
LAUNCHER = ()
ELASTIC = (*TORCHRUN[:-1], "--max-restarts=1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("kills")


@pytest.fixture(scope="module")
def run(root, data, folder):
    """Train in two processes with patches in each; the status, and what was said on stderr."""

    def call(output, patches="", flags=(), python=LAUNCHER):
        script = folder / f"{output}.py"
        script.write_text(SCRIPT.format(patches=patches))
        words = [*flags, *([] if python else ["--num-gpus=2"])]
        words = [*words, *overrides(data, folder / output, *OPTIONS)]
        done = subprocess.run(
            [sys.executable, *python, str(script), "--config-file", CONFIG, *words],
            cwd=root,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)},
            capture_output=True,
            text=True,
            timeout=300,
        )
        return done.returncode, done.stderr

    return call


@pytest.fixture(scope="module")
def whole(run, folder):
    """The folder of the run that nothing interrupts."""
    status, errors = run("whole")
    assert status == 0, errors
    return folder / "whole"


def assert_the_same_run(whole, other):
    assert curve(whole) == curve(other) and len(curve(whole)) == 9
    expected, found = (read_checkpoint(path / "model_final.pth") for path in (whole, other))
    for part in ("model", "ema"):
        assert expected[part].keys() == found[part].keys()
        for name, value in expected[part].items():
            assert torch.equal(value, found[part][name]), (part, name)


@pytest.mark.parametrize(
    ("number", "rank", "status"),
    [
        (signal.SIGKILL, 0, 2),
        (signal.SIGKILL, 1, 2),
        (signal.SIGTERM, 0, 143),
        (signal.SIGTERM, 1, 143),
        (signal.SIGUSR1, 1, 143),
    ],
)
def test_a_signal_to_one_of_two(run, whole, folder, number, rank, status):
    """In the fifth iteration, between the two parts of its batch."""
    name = f"{number.name}{rank}"
    patches = f"in_step({rank}, 10, lambda: be_told(signal.{number.name}))"
    found, errors = run(name, patches)
    assert found == status, errors
    last = 3 if number == signal.SIGKILL else 4
    assert (folder / name / "last_checkpoint").read_text() == f"model_000000{last}.pth"
    found, errors = run(name, flags=["--resume"])
    assert found == 0, errors
    assert_the_same_run(whole, folder / name)


def test_a_killed_process_is_started_again_by_torchrun(run, whole, folder):
    patches = "in_step(1, 10, lambda: os.kill(os.getpid(), signal.SIGKILL))"
    status, errors = run("elastic", patches, python=ELASTIC)
    assert status == 0, errors
    assert "resuming from" in (folder / "elastic" / "log.txt").read_text()
    assert_the_same_run(whole, folder / "elastic")


def test_hours_that_are_over_are_so_for_what_torchrun_starts_again(run, folder):
    status, _ = run("hours", flags=["+train.max_hours=1e-9"], python=ELASTIC)
    assert status != 0
    assert list(curve(folder / "hours")) == [0]
    log = (folder / "hours" / "log.txt").read_text()
    assert log.count("train.max_hours are over: saving") == 1
    assert log.count("train.max_hours were over before this attempt: nothing is trained") == 1
