"""Processes that hang, are frozen or gone: named, and the end of all, in bounded time."""

import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict

import pytest
from torch.distributed import HashStore

from ms_detr.engine import progress
from ms_detr.engine.progress import PHASES, Predicting, Progress
from ms_detr.engine.watch import PATIENCE, State, Watch, judge, verdict

from .standin import CONFIG, overrides
from .test_run import curve
from .test_train_net import TORCHRUN, children, ended, group_is_alive, wait_for


def state(phase, iteration=7, place=3, still=100.0, beat=1):
    return State(beat, iteration, place, PHASES.index(phase), still)


LOADING = state(progress.LOADING, place=1)
WAITING = state(progress.COUNTING, place=2)
SCORING = state(progress.SCORING, place=9)


@pytest.mark.parametrize(
    ("states", "stale", "blamed"),
    [
        # One is behind, and has been for too long.
        ([WAITING, LOADING, WAITING], {}, {1: "has been loading data in iteration 7 for 100 s"}),
        # It is behind, but something has just gone on.
        ([WAITING, state(progress.LOADING, place=1, still=5), WAITING], {}, {}),
        # An earlier iteration is behind, wherever it is there.
        ([state(progress.BETWEEN, 6, 8), LOADING], {}, {0: "has been between two steps in iter"}),
        # The main process may take its time while the others wait, but not a day.
        ([state(progress.SAVING, 6, 9), LOADING], {}, {}),
        ([state(progress.SAVING, 6, 9, PATIENCE + 1), LOADING], {}, {0: "has been saving in"}),
        ([SCORING, SCORING], {}, {}),
        # All at one place: nobody can tell who it is.
        ([WAITING, WAITING], {}, {0: "has been done with loading", 1: "has been done with load"}),
        # Who says nothing any more is to blame, wherever it is.
        ([LOADING, SCORING], {1: 61}, {1: "is gone or frozen; it was last seen scoring pred"}),
    ],
)
def test_who_is_to_blame(states, stale, blamed):
    found = judge(dict(enumerate(states)), stale, timeout=60)
    assert found.keys() == blamed.keys()
    for rank, text in blamed.items():
        assert found[rank].startswith(text)


def test_the_message_says_where_everybody_is():
    states = dict(enumerate([WAITING, LOADING, WAITING, SCORING]))
    text = verdict(states, judge(states, {}, 60))
    assert text == (
        "rank 1 has been loading data in iteration 7 for 100 s; the others: ranks 0, 2 done with "
        "loading data in iteration 7; rank 3 scoring predictions in iteration 7"
    )


def test_progress_counts_phases_and_batches(monkeypatch):
    own = Progress()
    monkeypatch.setattr(progress, "progress", own)
    own.begin(3)
    assert (own.iteration, own.place, own.phase) == (3, 1, progress.LOADING)
    loader = Predicting([1, 2])
    ticks = []
    for batch in loader:
        ticks.append((batch, own.ticks, own.phase))
    assert len(loader) == 2
    assert ticks == [(1, 3, progress.PREDICTING), (2, 4, progress.PREDICTING)]
    assert own.phase is progress.SCORING and own.place == 3
    own.begin(4)
    assert own.place == 1


@pytest.fixture
def started(root, data, tmp_path):
    """Start two processes that train the stand-in, with patches in each; they end with the test."""
    runs = []

    def start(*opts, patches="", flags=("--num-gpus=2",), python=()):
        script = tmp_path / "run.py"
        script.write_text(SCRIPT.format(patches=patches))
        short = ("train.max_iter=9", "dataloader.test.num_workers=0", *opts)
        words = overrides(data, tmp_path / "out", *short)
        run = subprocess.Popen(
            [sys.executable, *python, str(script), "--config-file", CONFIG, *flags, *words],
            cwd=root,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)},
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


SCRIPT = """
import sys
from ms_detr.cli import main
from tests.engine.standin import hang_in_data, score_slowly

{patches}

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
"""


@pytest.mark.slow
def test_slow_scoring_is_waited_for_and_a_process_that_hangs_is_not(started, tmp_path):
    """Scoring takes longer than a step may."""
    patches = "score_slowly(9)\nhang_in_data(rank=1, iteration=7)"
    run = started("+train.timeout_minutes=0.1", patches=patches)  # 6 seconds
    status, _, errors = ended(run, loud=True)
    assert status == 2
    assert list(curve(tmp_path / "out", "bbox/AP")) == [5]
    last = tmp_path / "out" / "model_0000005.pth"
    assert re.fullmatch(
        r"error: rank 1 has been loading data in iteration 7 for [678] s; the others: rank 0 done "
        r"with loading data in iteration 7\. Others wait no longer than train\.timeout_minutes="
        rf"0\.1; .*; the last checkpoint is {last}: go on with --resume",
        errors[-1],
    )
    stack = (tmp_path / "out" / "log.rank1.txt").read_text()
    assert "This process was here:" in stack and "time.sleep(seconds)" in stack
    assert "all_gather" in (tmp_path / "out" / "log.txt").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rank", "said"),
    [
        # Who has the store, and all that is known of the others.
        (
            0,
            "gone or frozen; it was last seen .*, 3 s ago; the last checkpoint is ",
        ),
        (1, "gone or frozen; it was last seen .*; the others: rank 0 .*; the last checkpoint is "),
    ],
)
def test_a_process_that_is_frozen_ends_the_job(started, rank, said):
    run = started("train.max_iter=100000", "+train.timeout_minutes=0.05", "train.eval_epochs=0")
    wait_for(run, "iter 5/")
    os.kill(children(run.pid)[rank], signal.SIGSTOP)
    status, _, errors = ended(run, loud=True)
    assert status == 2
    assert re.match(f"error: rank {rank} is {said}", errors[-1]), errors


@pytest.mark.slow
def test_torchruns_other_process_says_who_is_gone(started):
    """Torchrun ends it only after a while."""
    run = started(
        "train.max_iter=100000",
        "+train.timeout_minutes=0.05",
        "train.eval_epochs=0",
        flags=(),
        python=TORCHRUN[:-1],
        patches="import os\nfrom tests.engine.standin import in_step\n"
        "in_step(1, 5, lambda: os._exit(0))",
    )
    _, errors = run.communicate(timeout=100)
    assert run.returncode != 0
    (said,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert re.match("error: rank 1 is gone or frozen; it was last seen .* in iteration [1-5]; the "
                    "others: rank 0 .*; the last checkpoint is ", said), said  # fmt: skip


def test_who_has_ended_well_is_not_missed(monkeypatch):
    """And who is stuck in something brief is found by the store alone."""
    store, own, told = HashStore(), [Progress(), Progress()], []
    watches = [Watch(store, rank, 2, 60.0, told.append, own[rank]) for rank in range(2)]
    with watches[1].kept():
        own[1].begin(3)
        watches[1]._look()
    own[0].begin(3)
    for _ in range(100):  # five minutes
        own[0].tick()
        watches[0]._look()
    assert not told and store.get("beat/1") == b"null"
    monkeypatch.setattr(watches[0], "_end", told.append)
    for _ in range(25):
        watches[0]._look()
    assert told[0].startswith("rank 0 has been loading data in iteration 3 for 6")


class Freezing(HashStore):
    """A store that answers until it is told to freeze."""

    def __init__(self):
        super().__init__()
        self.thawed = threading.Event()
        self.thawed.set()

    def set(self, key, value):
        self.thawed.wait()
        super().set(key, value)


SECONDS = 1.5  # on a busy machine one thread may have to wait for long


@pytest.fixture
def guarded(monkeypatch):
    """A store, the watch of rank 1 on it, and the messages with which that ends the process."""
    store, said = Freezing(), queue.Queue()
    watch = Watch(store, 1, 2, SECONDS, print, Progress())  # not what earlier tests left
    monkeypatch.setattr(watch, "_end", said.put)
    yield store, watch, said
    store.thawed.set()


def say(store, beat):
    """What rank 0 says of itself."""
    store.set("beat/0", json.dumps(asdict(state(progress.SCORING, beat=beat))))


SILENT = (
    r"rank 0 is gone or frozen; it was last seen scoring predictions in iteration 7, [0-9] s ago"
)


def test_a_main_process_that_holds_the_store_and_is_frozen(guarded):
    """The thread that looks into the store waits as the main one does; the guard doesn't."""
    store, watch, said = guarded
    with watch.kept():
        for beat in range(40):
            say(store, beat)
            time.sleep(SECONDS / 20)
        assert said.empty()
        store.thawed.clear()
        frozen = time.monotonic()
        assert re.fullmatch(SILENT, said.get(timeout=60))
        assert time.monotonic() - frozen > SECONDS / 2
        store.thawed.set()


def test_a_main_process_that_is_frozen_beside_the_store(guarded):
    """As torchrun's store is, while all others wait for the scores."""
    store, watch, said = guarded
    say(store, 1)
    with watch.kept():
        assert re.fullmatch(SILENT, said.get(timeout=60))


def test_a_main_process_that_has_ended_well(guarded):
    store, watch, said = guarded
    store.set("beat/0", "null")
    with watch.kept():
        time.sleep(2 * SECONDS)
    assert said.empty()


def test_a_main_process_that_is_frozen_while_others_end(guarded):
    store, watch, said = guarded
    say(store, 1)

    def end():
        with watch.kept():
            while watch._first is None:
                time.sleep(0.01)
            store.thawed.clear()

    threading.Thread(target=end, daemon=True).start()
    assert re.fullmatch(SILENT, said.get(timeout=60))
