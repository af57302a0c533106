"""Signals that come at a bad moment."""

import signal
import subprocess
import sys

import pytest

# A command whose process is told to end while Python is in a callback, which swallows exceptions.
COMMAND = """
import os, sys, time
from ms_detr.cli import doctor, main
from ms_detr.signals import raised

class Callback:
    def __del__(self):
        os.kill(os.getpid(), {number})
        time.sleep(60)

def run(args):
    with raised():
        Callback()
        time.sleep(60)
    return 0

doctor.run = run
sys.exit(main(["doctor"]))
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_in_a_callback(number, status):
    command = [sys.executable, "-c", COMMAND.format(number=int(number))]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert ended.returncode == status
    assert "Traceback" not in ended.stderr
