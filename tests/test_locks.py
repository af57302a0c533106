"""One run to a folder: real processes, killed, with orphans, and file systems without locks."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time

import pytest

from ms_detr.locks import handed_down, hold

HOLD = "import sys, time; from ms_detr.locks import hold\nwith hold(sys.argv[1]): {body}"
# The child stands for a loader's worker that outlives its killed parent.
WAIT = "print('held', flush=True); time.sleep(60)"
WITH_WORKER = """
    import os
    if not os.fork():  # the worker says that it runs, and so has closed what it must not keep
        print(os.getpid(), flush=True)
    time.sleep(60)
"""


def start(root, folder, body, **options):
    command = [sys.executable, "-c", HOLD.format(body=body), str(folder)]
    environment = {**os.environ, **options.pop("env", {})}
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        text=True,
        **options,
    )


def test_another_process_is_refused_until_the_first_has_ended(root, tmp_path):
    with start(root, tmp_path, WAIT) as first:
        assert first.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=rf"in use .*process {first.pid} on .*end it"):
            hold(tmp_path).__enter__()
        first.kill()
        first.wait()
        with hold(tmp_path):
            pass


def test_the_worker_of_a_killed_run_keeps_no_lock(root, tmp_path):
    with start(root, tmp_path, WITH_WORKER) as first:
        worker = int(first.stdout.readline())
        with pytest.raises(ValueError, match="in use"):
            hold(tmp_path).__enter__()
        first.kill()
        first.wait()
        os.kill(worker, 0)  # it lives
        try:
            with hold(tmp_path):
                pass
        finally:
            os.kill(worker, signal.SIGKILL)


def test_a_child_takes_the_lock_over_and_keeps_it(root, tmp_path):
    with hold(tmp_path) as lock:
        refused = start(root, tmp_path, "pass")
        _, errors = refused.communicate(timeout=60)
        assert refused.returncode == 1 and "in use by another run" in errors
        child = start(root, tmp_path, WAIT, env=handed_down(lock), pass_fds=[lock])
        assert child.stdout.readline() == "held\n"
    try:
        with pytest.raises(ValueError, match="in use"):  # by the child alone
            hold(tmp_path).__enter__()
    finally:
        child.kill()
        child.communicate()
    with hold(tmp_path):
        pass


def test_a_descriptor_of_something_else_is_no_lock(root, tmp_path, monkeypatch):
    with hold(tmp_path) as lock, open(os.devnull) as other:
        for wrong in ("", "x", "-1", str(other.fileno())):
            monkeypatch.setenv("MS_DETR_LOCK", wrong)
            with pytest.raises(ValueError, match="in use"):
                hold(tmp_path).__enter__()
        # Of the same file, but not the one that is locked.
        with open(tmp_path / "lock") as same:
            monkeypatch.setenv("MS_DETR_LOCK", str(same.fileno()))
            with pytest.raises(ValueError, match="in use"):
                hold(tmp_path).__enter__()
        assert os.fstat(lock)


def test_file_system_without_locks(tmp_path, monkeypatch, caplog):
    def flock(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    with hold(tmp_path), hold(tmp_path):
        pass
    assert caplog.text.count("can't be kept from other runs: start none there") == 2


def test_an_exception_frees_the_folder(tmp_path):
    with pytest.raises(RuntimeError), hold(tmp_path):
        raise RuntimeError
    start = time.monotonic()
    with hold(tmp_path):
        assert time.monotonic() - start < 5
