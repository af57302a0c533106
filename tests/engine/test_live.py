"""What a training shows in a terminal, and that files and pipes are as ever."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
from contextlib import contextmanager, suppress
from pathlib import Path

import pyte
import pytest
import torch
from detectron2.utils.events import EventStorage

from ms_detr.engine.live import LiveLine, describe
from tests.conftest import ROOT, on_linux
from tests.engine.standin import CONFIG, Detector, at_steps, overrides

SIZE = (24, 150)  # lines, columns
LIVE = r"iter \d/9 [━╸╺]"


class Terminal:
    """What a terminal has shown.

    Attributes:
        shown: the rows of its screen after each line that was written.
        screen: as it is in the end.
    """

    def __init__(self):
        self.screen = pyte.HistoryScreen(*SIZE[::-1], history=1000)
        self.shown = []

    def feed(self, content):
        stream = pyte.ByteStream(self.screen)
        for line in re.split(rb"(?<=[\r\n])", content):
            stream.feed(line)
            self.shown.append([row.rstrip() for row in self.screen.display])

    def text(self):
        """All that stands on it in the end, and what has left it at the top."""
        past = ["".join(row[k].data for k in range(SIZE[1])) for row in self.screen.history.top]
        return "\n".join(row.rstrip() for row in (*past, *self.screen.display))


@contextmanager
def stdout_is_a_terminal(kind="xterm-256color"):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TERM", kind)
        for name in ("COLUMNS", "LINES", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
            patch.delenv(name, raising=False)
        reading, writing = pty.openpty()
        fcntl.ioctl(writing, termios.TIOCSWINSZ, struct.pack("HHHH", *SIZE, 0, 0))
        pieces, terminal = [], Terminal()

        def read():
            with suppress(OSError):  # the other end is closed
                while piece := os.read(reading, 4096):
                    pieces.append(piece)

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        with os.fdopen(writing, "w") as stream:
            patch.setattr(sys, "stdout", stream)
            yield terminal
        thread.join(10)
        os.close(reading)
        terminal.feed(b"".join(pieces))


def test_a_line_at_the_bottom_and_the_log_above(train, monkeypatch, tmp_path):
    monkeypatch.setattr("ms_detr.engine.live.PAUSE", 0.0)
    with stdout_is_a_terminal() as terminal:
        train("out", "train.log_period=2")
    text = "\n".join(row for rows in terminal.shown for row in rows if re.match(LIVE, row))
    for done in range(1, 10):
        assert re.search(rf"iter {done}/9 [━╸╺]+ ", text)
    # A loss once there is one, and AP from the first evaluation on.
    assert re.search(r"iter 1/9 \S+ +\d+ MiB", text) and re.search(r"iter 3/9 .* loss \d", text)
    assert re.search(r"iter 7/9 .* AP \d+\.\d .* s/iter  \d+ MiB", text)
    assert not re.search(r"iter [1-5]/9 .*AP", text)
    # The log has its own lines, whole ones, and the line is gone in the end.
    printed = terminal.text()
    log = (tmp_path / "out" / "log.txt").read_text()
    lines = re.findall(r"\[.*\] iter \d/9  .*", log)
    assert len(lines) > 4 and all(line in printed for line in lines)
    assert not re.search(LIVE, printed, re.MULTILINE)
    assert not terminal.screen.cursor.hidden


def test_it_goes_with_a_run_that_fails(train, monkeypatch):
    monkeypatch.setattr(Detector, "losses", Detector.losses)  # as it was, afterwards
    at_steps({4: lambda: 1 / 0})
    with stdout_is_a_terminal() as terminal:
        with pytest.raises(ZeroDivisionError):
            train("out")
        print("the next line")
    rows = [row for row in terminal.shown[-1] if row]
    assert rows[-1] == "the next line" and not any("━" in row for row in rows)
    assert any(re.match(LIVE, row) for shown in terminal.shown for row in shown)


def test_a_terminal_that_is_closed_costs_no_training(data, tmp_path):
    """Nor does it change the status, where its signal doesn't reach the process."""
    reading, writing = pty.openpty()
    fcntl.ioctl(writing, termios.TIOCSWINSZ, struct.pack("HHHH", *SIZE, 0, 0))
    options = overrides(data, tmp_path / "out", "train.report=true")
    command = [sys.executable, "train_net.py", CONFIG, *options]
    environment = {**os.environ, "TERM": "xterm-256color"}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=writing, stderr=subprocess.PIPE, text=True
    ) as process:
        os.close(writing)
        shown = b""
        while b"iter 1/9" not in shown:
            shown += os.read(reading, 4096)
        os.close(reading)
        error = process.stderr.read()
    assert process.returncode == 0, error
    assert "Traceback" not in error
    assert (tmp_path / "out" / "report.html").is_file()


def test_pipes_are_as_ever(train, tmp_path, capsys):
    """No line and no control character: what goes there is what the log has below its versions."""
    train("out", "train.log_period=5")
    out = capsys.readouterr().out
    log = (tmp_path / "out" / "log.txt").read_text()
    start = re.match(r"\[\S+ \S+\] environment:\n([^\[\n].*\n|\n)+", log)
    assert start and "PyTorch" in start[0] and out == log[start.end() :]
    assert "\x1b" not in out and "\r" not in out and "━" not in out


def test_a_training_says_early_that_it_moves(train, tmp_path):
    train("out", "train.log_period=5")
    log = (tmp_path / "out" / "log.txt").read_text()
    (line,) = re.findall(r"iter 3/9 .*", log)
    assert re.fullmatch(r"iter 3/9  \d\.\d{3} s/iter in the first 3; losses follow every 5", line)
    train("often", "train.log_period=3")
    assert "in the first" not in (tmp_path / "often" / "log.txt").read_text()
    # What programs read is the same with the line and without it.
    metrics = (tmp_path / "out" / "metrics.json").read_text()
    assert re.search(r'"iteration": (\d)', metrics)[1] == "4"


def test_what_the_line_says(monkeypatch):
    monkeypatch.setattr("ms_detr.engine.live._memory", lambda: 3 * 2**20)
    with EventStorage(0) as storage:
        assert describe(storage, 100) == "3 MiB"
        for iteration, ap in enumerate((20.0, 31.26, 30.0)):
            storage.iter = iteration
            storage.put_scalars(**{"bbox/AP": ap, "time": 2.0, "total_loss": 6.5})
        assert (
            describe(storage, 100)
            == "eta 0:03:20  loss 6.5  AP 30.0 (best 31.3)  2.000 s/iter  3 MiB"
        )
        storage.put_scalars(**{"segm/AP": 12.0})
        assert "AP 12.0  2.000" in describe(storage, 100)


@on_linux
def test_memory_is_that_of_the_process():
    from ms_detr.engine.live import _memory

    if torch.cuda.is_available():
        pytest.skip("with a GPU it is the GPU's")
    block = torch.ones(2**28, dtype=torch.uint8)
    held = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    assert len(block) < held <= _memory() < 2**36


def test_no_terminal_that_can():
    with stdout_is_a_terminal("dumb") as terminal, LiveLine().shown(0, 3):
        print("a line")
    assert terminal.text().split() == ["a", "line"]


@pytest.mark.slow
@on_linux
def test_memory_is_not_that_of_who_has_started_the_process():
    """A parent that once held two gigabytes, as `resource` tells of its children as well."""
    child = "from ms_detr.engine.live import _memory; print(_memory())"
    parent = (
        "import subprocess, sys, numpy; numpy.ones(2**31, numpy.uint8); "
        f"sys.exit(subprocess.call([sys.executable, '-c', {child!r}]))"
    )
    found = subprocess.run([sys.executable, "-c", parent], capture_output=True, check=True)
    assert 2**27 < int(found.stdout) < 2**31
