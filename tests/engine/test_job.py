"""A job that torchrun starts again: it goes on, and has no more time than it had."""

import os
import signal
import subprocess
import sys
import time

import pytest

from ms_detr.engine.job import TimeLimit, age, is_started_again, seconds_before

from .test_run import curve

AGAIN = {"TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_RESTART_COUNT": "1"}
FIRST = AGAIN | {"TORCHELASTIC_RESTART_COUNT": "0"}
NO_TORCHRUN = {"TORCHELASTIC_RESTART_COUNT": "1"}


def test_attempts():
    assert [is_started_again(x) for x in (AGAIN, FIRST, NO_TORCHRUN, {})] == [True] + [False] * 3
    assert [seconds_before(x) for x in (FIRST, NO_TORCHRUN, {})] == [0, 0, 0]
    assert seconds_before(AGAIN) == pytest.approx(age(os.getppid()), abs=1)


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs Linux's /proc")
def test_age():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        time.sleep(0.5)
        assert 0.4 < age(process.pid) < 5
        process.communicate(b"\n")
    assert age(process.pid) == 0


def test_what_is_left():
    assert not TimeLimit(None, 1e9).spent and not TimeLimit(None, 1e9).is_over()
    assert not TimeLimit(1, 3500).spent and not TimeLimit(1, 3500).is_over()
    assert TimeLimit(1, 3600).spent and TimeLimit(1, 3601).is_over()
    assert not TimeLimit(1e-9).spent


def test_the_second_attempt_goes_on_and_ends_with_the_first_ones_hours(
    train, tmp_path, monkeypatch
):
    long = "train.max_iter=9"
    with pytest.raises(SystemExit):
        train("out", long, "+train.max_hours=1e-9")
    assert list(curve(tmp_path / "out")) == [0]
    with pytest.raises(ValueError, match="continue it with --resume"):
        train("out", long)
    for name, value in AGAIN.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("ms_detr.engine.job.age", lambda process: 3600.0)
    with pytest.raises(SystemExit) as ended:
        train("out", long, "+train.max_hours=0.99")
    assert ended.value.code == 128 + signal.SIGTERM
    assert (tmp_path / "out" / "last_checkpoint").read_text() == "model_0000000.pth"
    assert "were over before this attempt" in (tmp_path / "out" / "log.txt").read_text()
    # Of another job: the first attempt has trained nothing then.
    (saved,) = (tmp_path / "out").glob("model_*.pth")
    os.utime(saved, (time.time() - 3700,) * 2)
    with pytest.raises(ValueError, match="continue it with --resume"):
        train("out", long)
    os.utime(saved, (time.time() - 3500,) * 2)
    train("out", long, "+train.max_hours=1.5")
    assert list(curve(tmp_path / "out")) == list(range(9))
