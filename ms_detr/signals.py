"""Signals by which schedulers end a run: noted while training, obeyed at once elsewhere."""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

# What ends a run: SIGTERM, and SIGUSR1, of which SLURM gives notice (``--signal=USR1@120``).
SIGNALS = tuple(getattr(signal, n) for n in ("SIGTERM", "SIGUSR1") if hasattr(signal, n))
TERMINATED = 128 + signal.SIGTERM  # exit code after either, the shells' for the first
GRACE = 60.0  # seconds; a training that has not come to the end of a step by then is stuck
# Seconds; a scheduler signals to a launcher, which tells its processes, and to these.
TOGETHER = 3.0
STOP = 0  # no signal's number


class Terminated(SystemExit):
    """One of `SIGNALS` has ended a run.

    Attributes:
        message: for the terminal; empty where another process says it.
    """

    def __init__(self, message: str = ""):
        super().__init__(TERMINATED)
        self.message = message


class Termination:
    """What `SIGNALS` do to this process.

    A thread of its own obeys them, since handlers in Python have to wait for a main thread that is
    in C++, e.g. for another process. A second signal, later than `TOGETHER` behind the first one,
    always ends the process at once.
    """

    def __init__(self) -> None:
        self.requested = False
        self._since = 0.0
        self._watching = self._noting = False
        self._first: Callable[[], None] | None = None
        self._farewell: Callable[[], str] = str
        self._deadline: threading.Timer | None = None

    @contextmanager
    def taken_over(self, farewell: Callable[[], str] = str) -> Iterator[None]:
        """In the block `SIGNALS` are this object's; who had them before has them afterwards.

        Python lets only a main thread take signals over; in another one, and in a block within
        such a block, only the farewell changes.

        Args:
            farewell: what is printed when the process ends at once.
        """
        outer, self._farewell = self._farewell, farewell
        try:
            if self._watching or threading.current_thread() is not threading.main_thread():
                yield
                return
            with self._watched():
                yield
        finally:
            self._farewell = outer

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """In the block a thread reads the numbers of signals out of a pipe."""
        _keep_from_forked_children()
        read, write = os.pipe()
        os.set_blocking(write, False)
        thread = threading.Thread(target=self._read, args=(read,), daemon=True, name="SIGTERM")
        handlers = {number: signal.signal(number, _note) for number in SIGNALS}
        wakeup = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        self._watching = True
        thread.start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(wakeup)
            _restore(handlers)
            self._watching = self.requested = False
            # Closing the pipe isn't enough: forked children have it, too.
            os.write(write, bytes([STOP]))
            thread.join()
            os.close(write)
            os.close(read)

    @contextmanager
    def noted(self) -> Iterator[None]:
        """In the block a signal sets ``requested``, and whoever runs there stops when it can."""
        self._noting = True
        try:
            yield
        finally:
            self._noting = False
            self.in_order()
        if self.requested:
            self._end()

    @contextmanager
    def first(self, action: Callable[[], None]) -> Iterator[None]:
        """In the block a signal ends the process, too, but calls ``action`` before that."""
        noting, self._noting, self._first = self._noting, False, action
        try:
            if self.requested:
                self._end()
            yield
        finally:
            if self.requested:
                threading.Event().wait()  # for the end: what is being saved must not change
            self._noting, self._first = noting, None

    def in_order(self) -> None:
        """Who was asked is stopping: it may take its time."""
        if self._deadline is not None:
            self._deadline.cancel()

    def _read(self, pipe: int) -> None:
        numbers = b""
        while STOP not in numbers:
            numbers = os.read(pipe, 64)
            for number in numbers:
                if number in SIGNALS:
                    self._receive(number)

    def _receive(self, number: int) -> None:
        if signal.getsignal(number) is not _note:
            return  # somebody else has taken it over
        if self.requested:
            if time.monotonic() - self._since > TOGETHER:
                os._exit(TERMINATED)
            return
        self.requested, self._since = True, time.monotonic()
        if self._noting:
            self._deadline = threading.Timer(GRACE, self._end)
            self._deadline.daemon = True
            self._deadline.start()
        else:  # not here, where a second signal must be heard
            threading.Thread(target=self._end, daemon=True).start()

    def _end(self) -> None:
        try:
            if self._first is not None:
                self._first()
        except Exception as error:
            print(f"error: can't save the last state: {error}", file=sys.stderr, flush=True)
        try:
            if message := self._farewell():
                print(message, file=sys.stderr, flush=True)
        finally:
            os._exit(TERMINATED)


def _note(*_: object) -> None:
    """Do nothing: the signal's number arrives in the pipe."""


@functools.cache  # what is registered once stays
def _keep_from_forked_children() -> None:
    """A forked child has the same pipe: its own signals would end its parent."""
    masks: list[set[int | signal.Signals]] = []  # as they were; a fork holds the interpreter

    def block() -> None:
        masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS))

    def restore() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, masks.pop())

    def leave_to_the_system() -> None:
        for number in SIGNALS:
            if signal.getsignal(number) is _note:
                signal.set_wakeup_fd(-1)
                signal.signal(number, signal.SIG_DFL)
        restore()

    os.register_at_fork(before=block, after_in_parent=restore, after_in_child=leave_to_the_system)


@contextmanager
def raised() -> Iterator[None]:
    """In the block `SIGNALS` raise `Terminated` in the main thread, as Ctrl-C its exception.

    For who waits for started processes, and ends them with itself. Whoever had the signals before
    hears nothing of them, and has them again afterwards.
    """
    handlers = {number: signal.signal(number, _raise) for number in SIGNALS}
    wakeup = signal.set_wakeup_fd(-1)
    try:
        yield
    finally:
        _restore(handlers)
        signal.set_wakeup_fd(wakeup)


@contextmanager
def insisting() -> Iterator[None]:
    """In the block, Ctrl-C and `Terminated` are raised again where Python has ignored them.

    It ignores what is raised in a callback, such as the garbage collector's. The process would go
    on as if nobody had told it to end.
    """
    outer = sys.unraisablehook

    def hook(ignored: Any) -> None:
        if ignored.exc_type is KeyboardInterrupt:
            _send_soon(signal.SIGINT)
        elif ignored.exc_type is Terminated:
            _send_soon(signal.SIGTERM)
        else:
            outer(ignored)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = outer


def _send_soon(number: signal.Signals) -> None:
    """Send this process a signal once the callback is left that has swallowed it."""
    timer = threading.Timer(0.05, os.kill, (os.getpid(), number))
    timer.daemon = True
    timer.start()


def _restore(handlers: Mapping[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)


def _raise(*_: object) -> None:
    raise Terminated


termination = Termination()  # signals are the process's
