"""Processes that hang or are gone: named by the others, and the end of all within bounded time.

A thread of each process writes what that is doing into the store where all of them have met; a
second one waits for nobody, and ends its process where rank 0 is silent, which judges the others
and may hold the store. Time is counted in the threads' own beats: a job that the system suspends
for a while is not stuck.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import USER_ERROR, listed
from .progress import PHASES, Progress, progress

logger = logging.getLogger(__name__)

# Seconds: for what isn't brief, such as scoring an evaluation, and for all that processes wait.
PATIENCE = 6 * 3600.0
MAX_PERIOD = 5.0  # seconds between two beats
BEATS = 20  # at least, in the time that a step may take
MARGIN = 6  # beats that the other processes leave to the main one, which sees all of them
VERDICT = "verdict"
GOODBYE = "null"  # who has ended well is not missed


@dataclass(frozen=True)
class State:
    """What a process is doing, as it says itself.

    Attributes:
        beat: counts up as long as it lives.
        phase: index in `PHASES`.
        still: seconds since something has gone on.
    """

    beat: int
    iteration: int
    place: int
    phase: int
    still: float

    def __str__(self) -> str:
        where = f" in iteration {self.iteration}" if self.iteration >= 0 else ""
        return f"{PHASES[self.phase].text}{where}"

    def limit(self, timeout: float) -> float:
        """How long it may be still."""
        return timeout if PHASES[self.phase].brief else max(timeout, PATIENCE)


def judge(
    states: dict[int, State], stale: dict[int, float], timeout: float
) -> dict[int, str]:  # fmt: skip
    """Return who is to blame, by rank, and for what; empty if everybody may yet go on.

    Args:
        states: by rank.
        stale: seconds since a process has last said something, by rank.
        timeout: seconds that a brief phase may take.
    """
    gone = [rank for rank in states if stale.get(rank, 0.0) > timeout]
    if gone:
        return {rank: _gone(states[rank]) for rank in gone}
    behind = min((s.iteration, s.place) for s in states.values())
    last = {r: s for r, s in states.items() if (s.iteration, s.place) == behind}
    if not all(s.still > s.limit(timeout) for s in last.values()):
        return {}
    return {rank: f"has been {s} for {s.still:.0f} s" for rank, s in last.items()}


def _gone(state: State) -> str:
    return f"is gone or frozen; it was last seen {state}"


def verdict(states: dict[int, State], blamed: dict[int, str]) -> str:
    """Return the message about those who are to blame, and where the others are."""
    lines = [f"rank {rank} {what}" for rank, what in blamed.items()]
    waiting: dict[str, list[int]] = {}
    for rank in sorted(states.keys() - blamed.keys()):
        waiting.setdefault(str(states[rank]), []).append(rank)
    others = [f"{_ranks(ranks)} {text}" for text, ranks in waiting.items()]
    seen = f"; the others: {listed(others, 4, '; ')}" if others else ""
    return f"{listed(lines, 4, '; ')}{seen}"


def _ranks(ranks: list[int]) -> str:
    return f"rank{'s' if len(ranks) > 1 else ''} {listed(ranks, 8)}"


class Watch:
    """Tells the others what this process is doing, and ends it when one of them has to.

    Args:
        store: where all processes have met.
        timeout: seconds that a step, or a batch of an evaluation, may take.
        tell: is given the message before this process ends.
    """

    def __init__(
        self,
        store: Any,
        rank: int,
        world_size: int,
        timeout: float,
        tell: Callable[[str], None],
        own: Progress = progress,
    ):
        self._store = store
        self._rank = rank
        self._all = range(world_size)
        self._timeout = timeout
        self._tell = tell
        self._own = own
        self._period = min(MAX_PERIOD, timeout / BEATS)
        self._beat = 0
        self._ticks = -1
        self._still = 0.0
        self._heard = 0  # how often rank 0 has said something new
        self._first: State | None = None  # what it said last
        self._trouble: Exception | None = None
        self._seen: dict[int, State] = {}
        self._stale: dict[int, float] = {}
        self._over = threading.Event()
        self._left = threading.Event()

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Watch while the block lasts."""
        thread = threading.Thread(target=self._run, daemon=True, name="watch")
        thread.start()
        threading.Thread(target=self._guard, daemon=True, name="guard").start()
        try:
            try:
                yield
            finally:
                # After an error, too, of which others hear in other ways.
                self._over.set()
                thread.join(2 * self._period)
                faulthandler.cancel_dump_traceback_later()
            with suppress(RuntimeError):
                self._store.set(_key(self._rank), GOODBYE)
        finally:
            self._left.set()

    def lost(self) -> str:
        """Say who is gone, to a process that has lost the connection to some other one."""
        found = self._verdict_of_others()
        if found:
            return found
        states = self._read(self._all)
        time.sleep(3 * self._period)
        later = self._read(self._all)
        if not later and self._rank:
            return "rank 0 is gone"
        silent = [rank for rank, state in states.items() if later.get(rank) == state]
        blamed = {rank: _gone(states[rank]) for rank in silent if rank != self._rank}
        return verdict(later, blamed) if blamed else ""

    def _run(self) -> None:
        """The body of the thread that looks into the store, which may hold it up for good."""
        while True:
            # Where not even this thread gets its turn, since something holds Python up, the stack
            # is shown by itself. The others end the job.
            with suppress(ValueError, OSError, RuntimeError, AttributeError):  # of a lost stderr
                faulthandler.dump_traceback_later(self._timeout + MARGIN * self._period)
            try:
                self._look()
                self._hear()
            except Exception as error:  # the store's process is gone, or about to end well
                self._trouble = error
            if self._over.wait(self._period):
                return

    def _hear(self) -> None:
        first = self._read([0]).get(0)
        if first is None or first != self._first:  # it has ended well, or lives
            self._heard += 1
        self._first = first or self._first
        self._trouble = None

    def _guard(self) -> None:
        """The body of the thread that ends this process where nothing is heard of rank 0."""
        heard, silent = self._heard, 0.0
        while not self._left.wait(self._period):
            silent = 0.0 if heard != self._heard else silent + self._period
            heard = self._heard
            if silent > self._timeout:
                what = _gone(self._first) if self._first else "is gone or frozen"
                why = f" ({self._trouble})" if self._trouble else ""
                self._end(f"rank 0 {what}, {silent:.0f} s ago{why}")

    def _look(self) -> None:
        own = self._own
        self._beat += 1
        self._still = 0.0 if own.ticks != self._ticks else self._still + self._period
        self._ticks = own.ticks
        phase = PHASES.index(own.phase)
        mine = State(self._beat, own.iteration, own.place, phase, self._still)
        self._store.set(_key(self._rank), json.dumps(asdict(mine)))
        if text := self._verdict_of_others():
            self._end(text)
        late = mine.still > mine.limit(self._timeout) + MARGIN * self._period
        if self._rank == 0 or late:
            self._judge()

    def _judge(self) -> None:
        states = self._read(self._all)
        for rank, state in states.items():
            same = self._seen.get(rank) == state
            self._stale[rank] = self._stale.get(rank, 0.0) + self._period if same else 0.0
        self._seen = states
        blamed = judge(states, self._stale, self._timeout) if states else {}
        if blamed:
            text = (
                f"{verdict(states, blamed)}. Others wait no longer than train.timeout_minutes="
                f"{self._timeout / 60:g}; the logs show where the processes were"
            )
            self._end(self._store.compare_set(VERDICT, "", text).decode())

    def _read(self, ranks: Iterable[int]) -> dict[int, State]:
        """What those of the processes last said that are here."""
        found: dict[int, State] = {}
        with suppress(RuntimeError):
            for rank in ranks:
                said = self._store.get(_key(rank)) if self._store.check([_key(rank)]) else GOODBYE
                if content := json.loads(said):
                    found[rank] = State(**content)
        return found

    def _verdict_of_others(self) -> str:
        try:
            return self._store.get(VERDICT).decode() if self._store.check([VERDICT]) else ""
        except RuntimeError:
            return ""

    def _end(self, text: str) -> None:
        """End this process, with the message and its stack; it is stuck, or will be."""
        main = sys._current_frames().get(threading.main_thread().ident or 0)
        stack = "".join(traceback.format_stack(main))
        try:
            logger.error("%s. This process was here:\n%s", text, stack)
            self._tell(text)
            if self._rank == 0:
                time.sleep(3 * self._period)  # the store is here, and the others have yet to read
        finally:
            os._exit(USER_ERROR)


def _key(rank: int) -> str:
    return f"beat/{rank}"
