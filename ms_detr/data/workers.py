"""Batches out of a loader's worker processes, also where these have no shared memory.

PyTorch hands every tensor over in a piece of shared memory and a file descriptor of its own, from a
thread of the worker: where either runs out, that thread loses the batch and the loader waits for
ever. Here a batch is one piece, made where an error can be seen, and goes through the worker's pipe
if there is no room for it.
"""

from __future__ import annotations

import io
import os
import pickle
import re
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from logging import getLogger
from multiprocessing import active_children
from multiprocessing.reduction import ForkingPickler
from multiprocessing.util import Finalize
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..errors import SentError, SystemLimitError, UserError, short_message
from ..processes import end_with_parent
from ..signals import SIGNALS

logger = getLogger(__name__)

SHARED_MEMORY = "/dev/shm"
ALIGNMENT = 64  # bytes
DEAD = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (.*?)\.?\s*(?:It is possible|$)")
FEWER = "lower num_workers of dataloader.train and dataloader.test (0: no worker processes)"


class WorkerLoader(DataLoader):
    """A DataLoader of lists of samples whose workers can deliver without shared memory, too.

    Args:
        dataset: map-style.
        num_workers: loader processes; 0 loads in the process itself.
        options: of DataLoader; not ``collate_fn``.
    """

    def __init__(self, dataset: Any, *, num_workers: int, **options: Any):
        super().__init__(
            _Reporting(dataset) if num_workers else dataset,
            num_workers=num_workers,
            collate_fn=pack if num_workers else list,
            worker_init_fn=_start if num_workers else None,
            **options,
        )

    def __iter__(self) -> Any:
        """Start the workers and return an iterator of batches.

        Raises:
            SystemLimitError: the system lacks what they need.
        """
        if not self.num_workers:
            return super().__iter__()
        _end_workers_first(os.getpid())
        try:
            return _Batches(super().__iter__())
        except OSError as error:
            raise SystemLimitError(
                f"can't start {self.num_workers} loader processes: {error.strerror} "
                f"({_limits()}): {FEWER}"
            ) from error


class _Batches:
    """Iterates over the batches that the workers send, unpacked."""

    def __init__(self, parcels: Iterator[Parcel]):
        self._parcels = parcels

    def __iter__(self) -> _Batches:
        return self

    def __next__(self) -> list[Any]:
        with named_worker_errors():
            parcel = next(self._parcels)
            if parcel.trouble:
                _tell_of_pipes("open files" if "Too many" in parcel.trouble else "shared memory")
            return parcel.unpack()


class _Reporting(Dataset):
    """A dataset that returns errors a user can mend as samples: torch would make text of them."""

    def __init__(self, dataset: Any):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Any) -> Any:
        try:
            return self.dataset[key]
        except Exception as error:
            if short_message(error) is None:
                raise
            return SentError.of(error)


@dataclass(frozen=True)
class Parcel:
    """A batch on its way out of a worker.

    Attributes:
        content: the pickled samples without their arrays.
        ends: where each array ends in ``data``, in bytes; it starts behind the one before it, at
            the next multiple of `ALIGNMENT`.
        data: all arrays, or the pickled tensor of shared memory that holds them.
        trouble: why they are not in shared memory; None if they are.
    """

    content: bytes
    ends: list[int]
    data: bytes
    trouble: str | None

    def unpack(self) -> list[Any]:
        """Return the samples, whose tensors share one piece of memory that they may write to.

        Raises:
            Exception: what kept one of the samples from being made.
        """
        if self.trouble is None:
            memory = _memory(ForkingPickler.loads(self.data)) if self.ends else b""
        else:
            memory = memoryview(bytearray(self.data))
        starts = [0, *map(_aligned, self.ends)]
        arrays = [memory[start:end] for start, end in zip(starts, self.ends, strict=False)]
        samples = pickle.loads(self.content, buffers=arrays)
        for sample in samples:
            if isinstance(sample, SentError):
                raise sample.received()
        return samples


def pack(samples: Sequence[Any]) -> Parcel:
    """Pack samples into a parcel, in a worker."""
    stream = io.BytesIO()
    buffers: list[pickle.PickleBuffer] = []
    _Pickler(stream, protocol=5, buffer_callback=buffers.append).dump(list(samples))
    arrays = [buffer.raw() for buffer in buffers]
    ends = list(accumulate(arrays, lambda end, array: _aligned(end) + array.nbytes, initial=0))[1:]
    trouble = None
    try:
        data = _shared(arrays, ends) if ends else b""
    except (RuntimeError, OSError) as error:  # torch's, the system's
        trouble = str(error)
        whole = bytearray(ends[-1])
        _fill(memoryview(whole), arrays, ends)
        data = bytes(whole)
    return Parcel(stream.getvalue(), ends, data, trouble)


def _shared(arrays: Sequence[memoryview], ends: Sequence[int]) -> bytes:
    """Put arrays into shared memory and return a handle of it."""
    # As torch's own collation: whole at once, so that a full /dev/shm is seen here.
    storage = torch.UntypedStorage._new_shared(ends[-1])
    tensor = torch.empty(0, dtype=torch.uint8).set_(storage)
    _fill(_memory(tensor), arrays, ends)
    return bytes(ForkingPickler.dumps(tensor))


def _fill(memory: memoryview, arrays: Sequence[memoryview], ends: Sequence[int]) -> None:
    for array, end in zip(arrays, ends, strict=True):
        memory[end - array.nbytes : end] = array


def _memory(tensor: Tensor) -> memoryview:
    """Return the memory of a tensor of bytes."""
    return memoryview(tensor.numpy())  # type: ignore[arg-type]


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT


class _Pickler(pickle.Pickler):
    """Leaves the content of tensors to the caller, as pickle does that of numpy's arrays."""

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is not Tensor or obj.layout != torch.strided or obj.requires_grad:
            return NotImplemented
        content = obj.contiguous().view(-1).view(torch.uint8)
        return _tensor, (pickle.PickleBuffer(_memory(content)), obj.dtype, tuple(obj.shape))


def _tensor(content: memoryview, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    if not len(content):  # frombuffer refuses it
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(content, dtype=dtype).view(shape)


# ---------------------------------------------------------------------------- life and death


def _start(_: int) -> None:
    """Let a worker live as long as its parent, and no shorter for a SIGTERM or SIGUSR1.

    Schedulers send these to all processes of a run, and the training still has a step to finish.
    """
    signal.set_wakeup_fd(-1)  # the parent's
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    end_with_parent()


@cache
def _end_workers_first(_: int) -> None:
    """Kill the workers when Python ends, which would send them SIGTERM and wait."""
    Finalize(None, _kill_workers, exitpriority=100)


def _kill_workers() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would report them
    for process in active_children():
        if process.daemon:
            process.kill()


@contextmanager
def named_worker_errors() -> Iterator[None]:
    """Say what is behind an error of PyTorch about a loader's workers.

    One that dies shows wherever the process happens to be, not only where it takes a batch.

    Raises:
        SystemLimitError: a worker was killed, or has ended in another way; or there are too many
            open files to take a batch.
    """
    try:
        yield
    except UserError:  # it says what is behind it
        raise
    except (RuntimeError, OSError) as error:
        text = " ".join(str(error).split())
        if found := DEAD.search(text):
            cause = _cause(found[2])
            raise SystemLimitError(
                f"a process that loads images (pid {found[1]}) {found[2]}{cause}"
            ) from error
        if "Too many open files" in text or "ancdata" in text:
            raise SystemLimitError(
                f"too many open files to take a batch from a loader's process ({_limits()}): raise "
                f"the limit (ulimit -n 4096), or {FEWER}"
            ) from error
        raise


def _cause(text: str) -> str:
    if "Bus error" in text:
        return f", most likely for want of shared memory ({_limits()}): {FEWER}"
    if "Killed" in text or "unexpectedly" in text:
        return f", most likely killed for want of memory: {FEWER}, or load fewer images a batch"
    return ""


@cache
def _tell_of_pipes(scarce: str) -> None:
    remedy = (
        f"give {SHARED_MEMORY} more room (docker run --shm-size=8g, or --ipc=host)"
        if scarce == "shared memory"
        else "raise the limit (ulimit -n 4096)"
    )
    logger.warning(
        "a batch doesn't fit into what is left of %s (%s): it goes through a pipe, which takes "
        "longer; %s, or %s", scarce, _limits(), remedy, FEWER,
    )  # fmt: skip


def _limits() -> str:
    """Say how much shared memory and how many open files there are."""
    known = []
    if hasattr(os, "statvfs") and os.path.isdir(SHARED_MEMORY):
        found = os.statvfs(SHARED_MEMORY)
        size, free = (n * found.f_frsize / 2**20 for n in (found.f_blocks, found.f_bavail))
        known.append(f"{SHARED_MEMORY} has {size:.0f} MB, {free:.0f} free")
    try:
        import resource  # not on every system

        known.append(f"open files: at most {resource.getrlimit(resource.RLIMIT_NOFILE)[0]}")
    except ImportError:
        pass
    return "; ".join(known)
