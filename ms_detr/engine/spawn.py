"""Processes of a group: started, watched, and ended together."""

from __future__ import annotations

import gc
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.multiprocessing as mp
from detectron2.utils import comm
from torch import distributed
from torch.distributed import PrefixStore, rendezvous
from torch.multiprocessing.spawn import ProcessException

from ..errors import USER_ERROR, SentError, SystemLimitError, short_message
from ..processes import end_with_parent
from ..signals import SIGNALS, TERMINATED, Terminated, raised, termination
from .watch import PATIENCE, Watch

LOST = re.compile("connection|gloo|nccl", re.IGNORECASE)  # errors about another process
GLOO_GROUP = comm._get_global_gloo_group  # Detectron2's own
ENDING = {signal.SIGINT, *SIGNALS}
# What is likely behind a signal that nobody has sent.
KILLERS = {
    "SIGKILL": ", most likely by the system for want of memory: smaller batches, smaller images or "
    "fewer loader workers take less",
    "SIGBUS": ", most likely for want of shared memory (/dev/shm) or of space on a disk",
}


class Lost(SystemLimitError):
    """A process of the group hangs, or has ended without a word."""


class Killed(Lost):
    """The system has killed a started process."""


@dataclass(frozen=True)
class Group:
    """A group of processes that train or evaluate together.

    Attributes:
        url: where its processes meet.
        local_size: processes on each machine.
        timeout: that a step may take.
    """

    backend: str
    url: str
    world_size: int
    local_size: int
    timeout: timedelta

    @contextmanager
    def joined(
        self, rank: int, local_rank: int, tell: Callable[[str], None] = print
    ) -> Iterator[None]:
        """Be a member while the block lasts; all processes must join together.

        Args:
            tell: is given a message where `Watch` ends this process.

        Raises:
            Lost: out of the block, instead of an error about the connection to another process.
        """
        if self.backend == "nccl":
            torch.cuda.set_device(local_rank)
        patience = max(self.timeout, timedelta(seconds=PATIENCE))
        meeting = rendezvous(self.url, rank, self.world_size, timeout=self.timeout)
        store, *_ = next(meeting)
        # Torchrun's store may outlive processes that it starts again, and hold where they were.
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = PrefixStore(f"attempt_{attempt}", store)
        # Who hangs is found out by the watch, which knows who may take his time.
        distributed.init_process_group(
            self.backend, store=PrefixStore("group", store), rank=rank,
            world_size=self.world_size, timeout=patience,
        )  # fmt: skip
        _set_gloo_group(patience)
        set_local_group(self.local_size)
        seconds = self.timeout.total_seconds()
        watch = Watch(PrefixStore("watch", store), rank, self.world_size, seconds, tell)
        with watch.kept():
            try:
                yield
            except RuntimeError as error:
                # Threads that beat are needed to tell who doesn't.
                if LOST.search(str(error)) and (text := watch.lost()):
                    raise Lost(text) from error
                raise
        # Not after an error: it could wait for processes that are gone.
        leave_group()


def spawn(group: Group, first_rank: int, main: Callable[..., Any], args: tuple[Any, ...]) -> None:
    """Start this machine's processes and wait for them; none outlives the call, or this process.

    Raises:
        UserError, OSError: what has ended one of the processes, if its user can mend it; its
            traceback in that process is its cause.
        Killed: the system has killed one of them.
        KeyboardInterrupt, Terminated: after Ctrl-C and SIGTERM.
        ProcessException: a bug has ended one of them; with its traceback.
    """
    # Ctrl-C reaches the processes, too. They have it blocked until they can die of it in silence,
    # and `SIGNALS` until they can obey them. Here it waits until all of them are known.
    context = errors = None
    with raised():
        try:
            signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
            try:
                # It starts multiprocessing's tracker of resources, which keeps SIGUSR1 blocked.
                errors = mp.get_context("spawn").SimpleQueue()
                signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)  # which the tracker's start undoes
                start = mp.get_start_method()
                arguments = (errors, start, os.getpid(), group, first_rank, main, args)
                context = mp.spawn(_process, arguments, nprocs=group.local_size, join=False)
            finally:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
            while not context.join():
                pass
        except ProcessException as error:
            # No "from": an error that was sent has its cause.
            raise _reason(error, context.processes if context else (), errors)  # noqa: B904
        except Terminated:
            _end(context.processes if context else (), signal.SIGTERM)
            raise
        except KeyboardInterrupt:
            # What they write is whole.
            _end(context.processes if context else (), signal.SIGKILL)
            raise


def _end(processes: Iterable[Any], number: int) -> None:
    """Send a signal to processes and wait for their end; what interrupts that kills them."""
    try:
        for process in processes:
            if process.is_alive():
                os.kill(process.pid, number)
        for process in processes:
            process.join()
    except BaseException:
        for process in processes:
            process.kill()
        raise


def _reason(error: Any, processes: Iterable[Any], errors: Any) -> BaseException:
    """Return the error that says why processes have ended."""
    if getattr(error, "signal_name", None) == "SIGINT":
        return KeyboardInterrupt()
    if getattr(error, "exit_code", None) in (TERMINATED, -signal.SIGTERM):
        return Terminated()
    sent = None if errors.empty() else errors.get().received()
    if sent is not None and not isinstance(sent, Lost):
        return sent
    # Who talks to a process that was killed may fail before that one is looked at.
    followed = LOST.search(str(error))
    killed = [
        (rank, signal.Signals(-process.exitcode).name)
        for rank, process in enumerate(processes)
        if process.exitcode < 0
        and -process.exitcode != signal.SIGTERM
        and (followed or rank == error.error_index)
    ]
    if not killed:
        return sent or error
    rank, name = killed[0]
    return Killed(f"process {rank} of this machine was killed by {name}{KILLERS.get(name, '')}")


def _process(
    local_rank: int,
    errors: Any,
    start_method: str,
    launcher: int,
    group: Group,
    first_rank: int,
    main: Callable[..., Any],
    args: tuple[Any, ...],
) -> None:
    """The body of a started process."""
    end_with_parent(launcher)
    with termination.taken_over():  # the launcher tells what there is to tell
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
        # A spawned process spawns its loaders' workers, too, unless told otherwise: they would
        # take seconds to start, and a copy of the dataset each.
        mp.set_start_method(start_method, force=True)

        def tell(text: str) -> None:
            errors.put(SentError.of(Lost(text)))

        try:
            with group.joined(first_rank + local_rank, local_rank, tell):
                main(*args)
        except Exception as error:
            if short_message(error) is None:
                raise  # mp.spawn brings the traceback to the parent
            errors.put(SentError.of(error))
            sys.exit(USER_ERROR)


def leave_group() -> None:
    """Leave the group of processes, and end its threads.

    They live as long as anything refers to the group. One that is still at work while Python ends
    aborts the process, whatever that has achieved; and Detectron2 would talk to the group that is
    gone if the process joined another one.
    """
    comm._get_global_gloo_group = GLOO_GROUP
    getattr(GLOO_GROUP, "cache_clear", bool)()
    comm._LOCAL_PROCESS_GROUP = None
    distributed.destroy_process_group()
    gc.collect()  # a distributed model is part of cycles


def _set_gloo_group(timeout: timedelta) -> None:
    """Let Detectron2 wait as long beside NCCL as elsewhere; its own group has torch's default."""
    if distributed.get_backend() == "nccl":
        group = distributed.new_group(backend="gloo", timeout=timeout)
        comm._get_global_gloo_group = lambda: group


def set_local_group(local_size: int) -> None:
    """Tell Detectron2 which processes share a machine. All processes must call it together."""
    if hasattr(comm, "create_local_process_group"):
        comm.create_local_process_group(local_size)
        return
    # Detectron2 0.4 sets this only in its own launcher.
    for first in range(0, comm.get_world_size(), local_size):
        ranks = list(range(first, first + local_size))
        group = distributed.new_group(ranks)
        if comm.get_rank() in ranks:
            comm._LOCAL_PROCESS_GROUP = group
