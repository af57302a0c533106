"""Many commands in one process of its own: what is imported for one is there for all."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.conftest import ROOT

RUN = """
import contextlib, io, json, sys, traceback
from ms_detr.cli import main
found = {}
for name, words in json.load(sys.stdin).items():
    with contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            status = main(words)
        except SystemExit as end:
            status = end.code
        except BaseException:
            traceback.print_exc()
            status = "a bug"
    found[name] = status, said.getvalue()
print("\\n" + json.dumps(found))
"""


def statuses(
    commands: Mapping[str, list[str]], cwd: Path, before: Sequence[str] = (), **environment: str
) -> dict[str, tuple[int, str]]:
    """The exit code of every command, and what it said on stderr.

    Args:
        before: what the process is started by, such as setpriv with its arguments.
    """
    done = subprocess.run(
        [*before, sys.executable, "-c", RUN],
        input=json.dumps(commands), capture_output=True, text=True, cwd=cwd, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return {name: tuple(found) for name, found in json.loads(done.stdout.splitlines()[-1]).items()}


def last(said: str) -> str:
    return (said.splitlines() or [""])[-1]
