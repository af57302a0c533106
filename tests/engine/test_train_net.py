"""The command, as a process of its own: killed, resumed, on several processes, misused."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from ms_detr.cli import main
from ms_detr.engine import launch, read_checkpoint
from ms_detr.signals import Terminated, raised
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


@pytest.mark.parametrize(
    ("options", "kill_at"),
    # With parts, in the fifth iteration between the first and the second.
    [
        pytest.param((), 5, marks=pytest.mark.slow),
        (("+train.accumulate=2", "+train.ema={decay: 0.9}"), 10),
    ],
)
def test_killed_run_resumes_to_the_weights_of_the_unbroken_one(
    command, train, tmp_path, options, kill_at
):
    train("whole", *options)
    killed = command("killed", *options, f"model.kill_at={kill_at}")
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / "killed" / "last_checkpoint").read_text() == "model_0000002.pth"

    torn = command("killed", *options, "--resume", python=("-c", KILL_IN_SAVE))
    assert torn.returncode == -signal.SIGKILL
    assert "resuming from" in torn.stdout
    assert [p.name for p in (tmp_path / "killed").glob("*.partial")] == [
        "model_0000005.pth.partial"
    ]

    train("killed", *options, "--resume")
    assert not list((tmp_path / "killed").glob("*.partial"))
    whole, resumed = (
        read_checkpoint(tmp_path / x / "model_final.pth") for x in ("whole", "killed")
    )
    for part in {"model", "ema"} & whole.keys():
        assert all(torch.equal(value, resumed[part][key]) for key, value in whole[part].items())
    curves = [(tmp_path / x / "metrics.json").read_text().splitlines() for x in ("whole", "killed")]
    whole, resumed = ([json.loads(line).get("total_loss") for line in curve] for curve in curves)
    assert whole == resumed


def test_torchrun_trains_as_one_process_does(command, train, tmp_path):
    train("one", "model.dropout=0", "train.eval_epochs=0")
    two = command("two", "model.dropout=0", "train.eval_epochs=0", python=TORCHRUN)
    assert two.returncode == 0, two.stderr
    a, b = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-6, atol=1e-9)
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


@pytest.fixture
def started(root, data, tmp_path):
    """Start train_net.py on the stand-in's config, in a process group of its own; ends with it."""
    runs = []

    def start(*arguments, python=("train_net.py",)):
        opts = [a for a in arguments if not a.startswith("--")]
        flags = [a for a in arguments if a.startswith("--")]
        long = ("train.epochs=100000", "train.checkpoint_epochs=1000", "train.eval_epochs=0")
        opts = overrides(data, tmp_path / "out", *long, "dataloader.train.num_workers=1", *opts)
        run = subprocess.Popen(
            [sys.executable, *python, "--config-file", CONFIG, *flags, *opts],
            cwd=root,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        runs.append(run)
        return run

    yield start
    for run in runs:
        if group_is_alive(run.pid):
            os.killpg(run.pid, signal.SIGKILL)
        run.communicate()


def wait_for(run, text):
    assert any(text in line for line in run.stdout), run.stderr.read()


def ended(run, loud=False):
    """Status, output and errors of a run that ends; nothing of it is left.

    What dies may be ``loud``, if it is cut off in the midst of talking to another process.
    """
    shown, errors = run.communicate(timeout=100)
    deadline = time.monotonic() + 20  # a loader's worker may need a moment to miss its parent
    while time.monotonic() < deadline and group_is_alive(run.pid):
        time.sleep(0.1)
    assert not group_is_alive(run.pid)
    assert loud or "Traceback" not in shown + errors, errors
    return run.returncode, shown, errors.strip().splitlines()


def children(pid):
    """Numbers of the processes that a launcher has started."""
    found = []
    for child in map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
        if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text():
            found.append(child)
    return found


@pytest.mark.parametrize(("processes", "period"), [(1, 0.34), (2, 1000)])
def test_interrupted_run(started, tmp_path, processes, period):
    """Ctrl-C reaches every process of the terminal's foreground group."""
    run = started(f"--num-gpus={processes}", f"train.checkpoint_epochs={period}")
    wait_for(run, "iter 2/")
    os.killpg(run.pid, signal.SIGINT)
    status, _, errors = ended(run)
    assert status == 130
    folder = tmp_path / "out"
    if processes == 1:
        last = folder / (folder / "last_checkpoint").read_text()
        safe = f"the last checkpoint is {last}: go on with --resume"
    else:
        safe = f"no checkpoint was saved in {folder}: a new start begins at iteration 0"
    assert errors[-1] == f"interrupted; {safe}"


SLOW = pytest.mark.slow
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "train_net.py")
RECEIVERS = {
    "the process": (1, lambda run, number: os.kill(run.pid, number)),
    "the launcher": (2, lambda run, number: os.kill(run.pid, number)),
    "one rank": (2, lambda run, number: os.kill(children(run.pid)[1], number)),
    "all at once": (2, lambda run, number: os.killpg(run.pid, number)),
}


@pytest.mark.parametrize(
    ("number", "receiver"),
    [
        (signal.SIGTERM, "the process"),
        (signal.SIGTERM, "one rank"),
        pytest.param(signal.SIGUSR1, "the launcher", marks=SLOW),
        pytest.param(signal.SIGTERM, "the launcher", marks=SLOW),
        pytest.param(signal.SIGTERM, "all at once", marks=SLOW),
        pytest.param(signal.SIGUSR1, "the process", marks=SLOW),
        pytest.param(signal.SIGUSR1, "one rank", marks=SLOW),
        pytest.param(signal.SIGUSR1, "all at once", marks=SLOW),
    ],
)
def test_a_signal_saves_and_ends_every_process(started, train, tmp_path, number, receiver):
    processes, send = RECEIVERS[receiver]
    run = started(f"--num-gpus={processes}")
    wait_for(run, "iter 3/")
    send(run, number)
    status, _, errors = ended(run)
    assert status == 143
    last = (tmp_path / "out" / "last_checkpoint").read_text()
    assert errors[-1] == (
        f"terminated; the last checkpoint is {tmp_path}/out/{last}: go on with --resume"
    )
    done = int(last[6:13]) + 1
    assert done >= 3
    if receiver == "the process":  # what it would be had it trained so long and no longer
        train("whole", f"train.max_iter={done}", "lr_multiplier.values=[1.0,1.0]")
        kept = read_checkpoint(tmp_path / "out" / last)["model"]
        whole = weights(tmp_path / "whole")
        assert all(torch.equal(kept[name], whole[name]) for name in whole)


@pytest.mark.slow
def test_sigterm_to_torchrun(started, tmp_path):
    run = started(python=TORCHRUN)
    wait_for(run, "iter 3/")
    os.kill(run.pid, signal.SIGTERM)
    _, errors = run.communicate(timeout=100)
    assert run.returncode != 0 and not group_is_alive(run.pid)
    last = (tmp_path / "out" / "last_checkpoint").read_text()
    assert errors.count(f"terminated; the last checkpoint is {tmp_path}/out/{last}") == 1


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=SLOW)], ids=str
)
@pytest.mark.slow
def test_a_launcher_that_ends_leaves_no_process(started, tmp_path, number):
    """While its processes start: they aren't yet, or are importing."""
    run = started("--num-gpus=2")
    deadline = time.monotonic() + 60
    while len(children(run.pid)) < 1:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(run.pid, number)
    status, _, errors = ended(run, loud=number == signal.SIGKILL)
    if number == signal.SIGTERM:
        assert status == 143
        assert errors[-1].startswith("terminated; no checkpoint was saved in ")
    else:
        assert status == -number
    assert not (tmp_path / "out" / "last_checkpoint").exists()


@pytest.mark.slow
def test_a_launcher_that_is_killed_leaves_no_training(started):
    run = started("--num-gpus=2")
    wait_for(run, "iter 2/")
    os.kill(run.pid, signal.SIGKILL)
    assert ended(run, loud=True)[0] == -signal.SIGKILL


@pytest.mark.slow
def test_a_rank_that_the_system_kills_is_named(started, tmp_path):
    run = started("--num-gpus=2", "train.checkpoint_epochs=0.34")
    wait_for(run, "iter 2/")
    os.kill(children(run.pid)[1], signal.SIGKILL)
    status, _, errors = ended(run, loud=True)
    assert status == 2
    last = (tmp_path / "out" / "last_checkpoint").read_text()
    assert "process 1 of this machine was killed by SIGKILL, most likely" in errors[-1]
    assert "for want of memory" in errors[-1]
    assert errors[-1].endswith(
        f"; the last checkpoint is {tmp_path}/out/{last}: go on with --resume"
    )


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


@pytest.mark.parametrize(("flags", "folder"), [([], "here"), (["--eval-only"], None)])
def test_an_evaluation_that_ends_early_leaves_nothing_to_go_on_with(
    monkeypatch, data, flags, folder
):
    """Only a training's end is followed by what is safe in its folder."""
    given = {}
    monkeypatch.setattr("ms_detr.engine.launch", lambda task, **options: given.update(options))
    opts = overrides(data, "here", "train.init_checkpoint=a.pth")
    assert main(["train", "--config-file", CONFIG, *flags, *opts]) == 0
    assert given["output_dir"] == folder


FORK = """
import multiprocessing, os, signal, time
from ms_detr.signals import termination

watched = termination.taken_over()
watched.__enter__()
child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
child.start()
os.kill(child.pid, signal.{name})
child.join(20)
time.sleep(1)
print("alive, the child ended with", child.exitcode, termination.requested)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGUSR1, marks=SLOW)])
def test_the_signal_of_a_forked_child_is_its_own(root, number):
    """It would have been the parent's: both had one pipe for the signals' numbers."""
    script = FORK.format(name=number.name)
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=root, capture_output=True, text=True
    )
    assert result.stdout == f"alive, the child ended with -{number.value} False\n", result


TAKEN_OVER = """
import os, signal, time
from ms_detr.signals import termination

watched = termination.taken_over()
watched.__enter__()
signal.signal(signal.SIGTERM, lambda *_: print("mine"))
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(1)
print("alive", termination.requested)
"""


def test_whoever_takes_sigterm_over_has_it(root):
    """As `compare` does for the trainings that it ends."""
    result = subprocess.run(
        [sys.executable, "-c", TAKEN_OVER], cwd=root, capture_output=True, text=True
    )
    assert result.stdout == "mine\nalive False\n", result


def test_a_run_gives_sigterm_back(root):
    """In this process too: what it did before, and the pipe of whoever waits for signals."""
    handler, wakeup = signal.getsignal(signal.SIGTERM), signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(wakeup)
    found = launch(lambda: signal.getsignal(signal.SIGTERM), device="cpu")
    assert found is not handler
    assert signal.getsignal(signal.SIGTERM) is handler
    assert signal.set_wakeup_fd(wakeup) == wakeup
    assert not [thread for thread in threading.enumerate() if thread.name == "SIGTERM"]
    with pytest.raises(Terminated), raised():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert signal.getsignal(signal.SIGTERM) is handler
