"""Two runs in one ``train.output_dir``, as real processes."""

import os
import signal
import subprocess
import sys

import pytest

from ms_detr.engine import read_checkpoint
from ms_detr.evaluation import read_results
from tests.engine.standin import CONFIG, overrides

ENDLESS = ("train.epochs=100000", "train.checkpoint_epochs=1000", "train.eval_epochs=0")


@pytest.fixture
def start(root, data, tmp_path):
    """Start train_net.py in the folder ``out``; what still runs at the end is killed."""
    running = []

    def call(*arguments, python=("train_net.py",)):
        opts = [a for a in arguments if not a.startswith("--")]
        flags = [a for a in arguments if a.startswith("--")]
        command = [sys.executable, *python, "--config-file", CONFIG, *flags]
        process = subprocess.Popen(
            [*command, *overrides(data, tmp_path / "out", *opts)],
            cwd=root,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        return process

    yield call
    for process in running:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_a_second_run_is_refused_and_disturbs_nothing(start, train, tmp_path):
    train("out", "train.max_iter=3")
    out = tmp_path / "out"
    results = (out / "evaluation" / "results.json").read_bytes()
    first = start("--resume", *ENDLESS, "dataloader.train.num_workers=1")
    assert any("iter 5/" in line for line in first.stdout)
    before = (out / "log.txt").read_text()
    # Of one process, and of two, where the other one must not wait for it.
    for flags in ([], ["--resume", "--num-gpus=2"]):
        second = start(*flags)
        _, errors = second.communicate(timeout=100)
        assert second.returncode == 2, errors
        (line,) = [line for line in errors.splitlines() if line.startswith("error: ")]
        assert f"{out} is in use by another run (process {first.pid} on " in line
    assert (out / "log.txt").read_text().startswith(before)
    assert not (out / "log.rank1.txt").exists()
    # An evaluation alone is welcome, and leaves the training's results alone.
    alone = train("out", "--eval-only", "--resume")
    assert read_results(out / "eval_only" / "evaluation").keys() == alone.keys()
    assert (out / "evaluation" / "results.json").read_bytes() == results
    # Killed with its worker behind it, it blocks nothing.
    first.send_signal(signal.SIGKILL)
    first.wait()
    train("out", "--resume", "train.max_iter=4")
    assert read_checkpoint(out / "model_final.pth")["iteration"] == 3


def test_an_evaluation_alone_leaves_a_trainings_results(train, tmp_path):
    train("out", "train.max_iter=1")
    results = tmp_path / "out" / "evaluation" / "results.json"
    log = tmp_path / "out" / "log.txt"
    before = results.read_bytes(), log.read_bytes()
    (tmp_path / "out" / "model_0000009.pth.partial").write_bytes(b"a training may be writing it")
    train("out", "--eval-only", "--resume")
    assert (results.read_bytes(), log.read_bytes()) == before
    assert (tmp_path / "out" / "model_0000009.pth.partial").exists()
    assert (tmp_path / "out" / "eval_only" / "evaluation" / "results.json").is_file()
    assert (
        f"loaded {tmp_path}/out/model_final.pth"
        in (tmp_path / "out" / "eval_only" / "log.txt").read_text()
    )
