"""Output that is piped to a command that ends first, as `head` does."""

import os
import shlex
import subprocess
import sys

import pytest
import torch

from ms_detr.pipes import READER_GONE, with_reader

from . import published
from .conftest import ROOT
from .engine.standin import CONFIG, overrides, write_dataset

# Buffered, as output to a pipe is by default: the last of it breaks at exit.
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
    "OMP_NUM_THREADS": "1",
}


def without_reader(*command, lines=0, stderr=subprocess.PIPE):
    """Run Python with a standard output that is read for so many lines; status and stderr."""
    options = {"cwd": ROOT, "env": ENVIRONMENT, "stdout": subprocess.PIPE, "stderr": stderr}
    with subprocess.Popen([sys.executable, *command], text=True, **options) as process:
        for _ in range(lines):
            process.stdout.readline()
        process.stdout.close()
        error = process.stderr.read() if process.stderr else ""
    return process.returncode, error


@pytest.mark.parametrize(
    "command",
    [("-m", "ms_detr", "--help"), ("-m", "ms_detr", "doctor"), ("train_net.py", "--help")],
    ids=" ".join,
)
def test_a_command_ends_in_silence(command):
    assert without_reader(*command) == (READER_GONE, "")


def test_errors_in_the_same_pipe():
    status, _ = without_reader("-m", "ms_detr", "--help", stderr=subprocess.STDOUT)
    assert status == READER_GONE


def test_a_verb_has_done_its_work_when_it_speaks(tmp_path):
    source, target = tmp_path / "published.pth", tmp_path / "converted.pth"
    torch.save(published.two_stage(backbone=False, dim=8, ffn=8, layers=1), source)
    command = ("-m", "ms_detr", "convert", str(source), str(target))
    assert without_reader(*command) == (READER_GONE, "")
    assert "model" in torch.load(target)


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_training_goes_on_in_its_log(tmp_path, processes):
    """What was trained for days does not depend on who watches."""
    data = tmp_path / "data"
    write_dataset(data)
    command = ["train_net.py", "--config-file", CONFIG, "--num-gpus", str(processes)]
    status, error = without_reader(*command, *overrides(data, tmp_path / "out"), lines=3)
    assert status == 0
    assert "Traceback" not in error and "BrokenPipe" not in error
    log = (tmp_path / "out" / "log.txt").read_text()
    assert log.count("nobody reads the standard output any more") == 1
    assert (tmp_path / "out" / "model_final.pth").is_file()


def test_streams_that_are_closed_from_the_start(tmp_path):
    def status(closed, *command):
        line = f"{shlex.join([sys.executable, *command])} {closed}"
        return subprocess.run(line, shell=True, cwd=ROOT, env=ENVIRONMENT, timeout=300).returncode

    assert status(">&- 2>&-", "-m", "ms_detr", "--version") == 0
    write_dataset(tmp_path / "data")
    options = overrides(tmp_path / "data", tmp_path / "out", "train.max_iter=1")
    assert status(">&-", "train_net.py", CONFIG, *options) == 0
    assert (tmp_path / "out" / "evaluation" / "results.json").is_file()


def test_another_broken_pipe_is_an_error():
    def fail():
        raise BrokenPipeError("a worker's")

    with pytest.raises(BrokenPipeError, match="a worker's"):
        with_reader(fail)
    assert with_reader(lambda: 3) == 3


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk(unbuffered):
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [sys.executable, "-m", "ms_detr", "doctor"],
            cwd=ROOT, env=ENVIRONMENT | {"PYTHONUNBUFFERED": unbuffered},
            stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert result.returncode == 2
    assert result.stderr == "error: the output can't be written: No space left on device\n"
