"""The command, as a process of its own: killed, resumed, on several processes, misused."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from ms_detr.engine import read_checkpoint
from tests.engine.standin import CONFIG, overrides

KILL_IN_SAVE = (
    "import runpy; from tests.engine.standin import kill_in_save; kill_in_save(); "
    "runpy.run_path('train_net.py', run_name='__main__')"
)


@pytest.fixture
def command(root, data, tmp_path):
    """Run train_net.py on the stand-in's config."""

    def call(output, *arguments, python=("train_net.py",)):
        opts = [a for a in arguments if not a.startswith("--")]
        flags = [a for a in arguments if a.startswith("--")]
        command = [sys.executable, *python, "--config-file", CONFIG]
        return subprocess.run(
            # Flags after the overrides: both orders work.
            [*command, *overrides(data, tmp_path / output, *opts), *flags],
            cwd=root,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=100,
        )

    return call


def weights(folder):
    return read_checkpoint(folder / "model_final.pth")["model"]


def test_killed_run_resumes_to_the_weights_of_the_unbroken_one(command, train, tmp_path):
    train("whole")
    killed = command("killed", "model.kill_at=5")
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / "killed" / "last_checkpoint").read_text() == "model_0000002.pth"

    torn = command("killed", "--resume", python=("-c", KILL_IN_SAVE))
    assert torn.returncode == -signal.SIGKILL
    assert "resuming from" in torn.stdout
    assert [p.name for p in (tmp_path / "killed").glob("*.partial")] == [
        "model_0000005.pth.partial"
    ]

    train("killed", "--resume")
    assert not list((tmp_path / "killed").glob("*.partial"))
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_torchrun_trains_as_one_process_does(command, train, tmp_path):
    train("one", "model.dropout=0", "train.eval_epochs=0")
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "train_net.py")
    two = command("two", "model.dropout=0", "train.eval_epochs=0", python=torchrun)
    assert two.returncode == 0, two.stderr
    a, b = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-6)
    # One log, one table, one file of detections with all 12 images.
    assert two.stdout.count("36 detections") == 1
    assert (tmp_path / "two" / "log.rank1.txt").is_file()


def test_non_finite_loss_in_one_of_two_processes_ends_both(command, tmp_path):
    start = time.monotonic()
    failed = command("out", "--num-gpus=2", "model.poison=3", "model.poison_raises=true")
    assert failed.returncode == 2, failed.stderr
    assert time.monotonic() - start < 60
    (line,) = [line for line in failed.stderr.splitlines() if line.startswith("error: ")]
    for part in ("matching cost of term 'o2o'", "003.png", "--resume"):
        assert part in line
    assert "Traceback" not in failed.stderr


@pytest.mark.parametrize("processes", [1, 2])
def test_interrupted_run(root, data, tmp_path, processes):
    """Ctrl-C reaches every process of the terminal's foreground group."""
    opts = ("train.epochs=100000", "train.checkpoint_epochs=1000", "train.eval_epochs=0")
    opts = overrides(data, tmp_path / "out", *opts, "dataloader.train.num_workers=1")
    command = [sys.executable, "train_net.py", "--config-file", CONFIG, f"--num-gpus={processes}"]
    run = subprocess.Popen(
        [*command, *opts],
        cwd=root,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell's background job ignores Ctrl-C, and hands that down.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert any("iter 2/" in line for line in run.stdout)
    os.killpg(run.pid, signal.SIGINT)
    shown, errors = run.communicate(timeout=100)
    assert run.returncode == 130, errors
    assert errors.splitlines()[-1] == "interrupted; go on with --resume"
    assert "Traceback" not in shown + errors
    deadline = time.monotonic() + 20  # a loader's worker may need a moment to miss its parent
    while time.monotonic() < deadline and group_is_alive(run.pid):
        time.sleep(0.1)
    assert not group_is_alive(run.pid)


def group_is_alive(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_misspelt_key_is_one_line(command):
    failed = command("out", "train.sede=1")
    assert failed.returncode == 2
    assert failed.stderr.strip().splitlines()[-1] == (
        "error: override 'train.sede=1': unknown config key 'train.sede'; did you mean train.seed? "
        "(+train.sede=value adds a new key)"
    )
    assert "Traceback" not in failed.stderr
