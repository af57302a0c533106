"""One process for every device, on one or more machines."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.multiprocessing as mp
from detectron2.utils import comm
from torch import distributed
from torch.multiprocessing.spawn import ProcessException

from ..errors import short_message

logger = logging.getLogger(__name__)

USER_ERROR = 2  # exit code, argparse's
INTERRUPTED = 130  # exit code, the shells' for Ctrl-C
TIMEOUT = timedelta(minutes=30)


def argument_parser() -> argparse.ArgumentParser:
    """Arguments of a training command, with Detectron2's names."""
    parser = argparse.ArgumentParser(
        description="Train or evaluate a detector.",
        epilog="Under torchrun, its processes are used and --num-gpus is ignored.",
    )
    add = parser.add_argument
    add("--config-file", required=True, metavar="FILE", help="a config, e.g. one of configs/")
    add("--resume", action="store_true", help="continue the run in train.output_dir, if there")
    add("--eval-only", action="store_true", help="evaluate train.init_checkpoint, or with --resume "
        "the last checkpoint")  # fmt: skip
    add("--num-gpus", type=int, default=1, help="processes on this machine (on the CPU, too)")
    add("--num-machines", type=int, default=1, help="number of machines")
    add("--machine-rank", type=int, default=0, help="the rank of this machine, from 0")
    add("--dist-url", default="auto", help="where machines meet, e.g. tcp://first-machine:29500")
    add("--debug", action="store_true", help="show the traceback of every error")
    add("opts", nargs="*", metavar="key=value", help="overrides: key=value, +key=value, ~key")
    return parser


def run_command(command: Callable[[], Any], debug: bool = False) -> int:
    """Run a command; what the user can mend becomes one line on stderr.

    Returns:
        The exit code: 0, 2 after such an error, 130 after Ctrl-C. Other errors keep their
        traceback.
    """
    try:
        command()
    except KeyboardInterrupt:
        if debug:
            traceback.print_exc()
        print("interrupted; go on with --resume", file=sys.stderr, flush=True)
        return INTERRUPTED
    except Exception as error:
        message, details = short_message(error), traceback.format_exc()
        if isinstance(error, ProcessError):
            message, details = str(error), error.details
        if message is None:
            raise
        if debug:
            print(details, file=sys.stderr)
        print(f"error: {message}", file=sys.stderr, flush=True)
        return USER_ERROR
    return 0


class ProcessError(RuntimeError):
    """A started process failed with an error that its user can mend: its message.

    Attributes:
        details: the traceback in that process.
    """

    def __init__(self, message: str, details: str):
        super().__init__(message)
        self.details = details


def choose_device(device: str) -> torch.device:
    """The device of a config's ``train.device``: ``auto`` takes CUDA where there is any."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"train.device must be auto, cpu, cuda or cuda:N, got '{device}'"
        ) from error
    count = torch.cuda.device_count()
    if chosen.type == "cuda" and (chosen.index or 0) >= count:
        found = f"{count or 'no'} CUDA device{'s' if count > 1 else ''}"
        raise ValueError(f"train.device is '{device}', but PyTorch finds {found}")
    return chosen


def launch(
    main: Callable[..., Any],
    args: tuple[Any, ...] = (),
    *,
    num_processes: int = 1,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str = "auto",
    device: str = "auto",
    timeout: timedelta = TIMEOUT,
) -> Any:
    """Call ``main(*args)`` in every process: torchrun's, or as many as are asked for.

    Detectron2's Launcher needs CUDA (0.4) and knows no torchrun.

    Args:
        main: importable, with arguments that can be pickled, when processes are started.
        num_processes: on this machine; ignored under torchrun.
        dist_url: where processes meet; ``auto`` finds a free port on this machine.
        device: as in ``train.device``: NCCL on CUDA, gloo on the CPU.
        timeout: for what processes wait for one another, the slowest evaluation included.

    Returns:
        What ``main`` returns; None where processes were started.

    Raises:
        ProcessError: a started process failed in a way that the user can mend.
        ValueError: more processes than devices, or machines that have no place to meet.
    """
    backend = "nccl" if choose_device(device).type == "cuda" else "gloo"
    if {"RANK", "WORLD_SIZE", "LOCAL_RANK"} <= os.environ.keys():
        world_size = int(os.environ["WORLD_SIZE"])
        local_size = int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
        group = Group(backend, "env://", world_size, local_size, timeout)
        with group.joined(int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])):
            return main(*args)
    if num_processes < 1 or num_machines < 1 or not 0 <= machine_rank < num_machines:
        raise ValueError(
            f"--num-gpus {num_processes} --num-machines {num_machines} --machine-rank "
            f"{machine_rank}: counts start at 1, ranks at 0"
        )
    world_size = num_processes * num_machines
    if world_size == 1:
        return main(*args)
    if backend == "nccl" and num_processes > torch.cuda.device_count():
        raise ValueError(
            f"--num-gpus {num_processes}, but this machine has {torch.cuda.device_count()}; "
            "train.device=cpu runs as many processes on the CPU"
        )
    if device == "auto" and backend == "gloo":
        logger.warning(
            "no GPU is found: --num-gpus %d starts as many processes on the CPU", num_processes
        )
    if dist_url == "auto":
        if num_machines > 1:
            raise ValueError("several machines need --dist-url tcp://first-machine:port")
        dist_url = f"tcp://127.0.0.1:{free_port()}"
    group = Group(backend, dist_url, world_size, num_processes, timeout)
    _spawn(group, machine_rank * num_processes, main, args)
    return None


@dataclass(frozen=True)
class Group:
    """A process group.

    Attributes:
        url: where its processes meet.
        local_size: processes on each machine.
    """

    backend: str
    url: str
    world_size: int
    local_size: int
    timeout: timedelta

    @contextmanager
    def joined(self, rank: int, local_rank: int) -> Iterator[None]:
        """Be a member. All processes must join together."""
        if self.backend == "nccl":
            torch.cuda.set_device(local_rank)
        distributed.init_process_group(
            self.backend,
            init_method=self.url,
            rank=rank,
            world_size=self.world_size,
            timeout=self.timeout,
        )
        set_local_group(self.local_size)
        yield
        # Not after an error: it could wait for processes that are gone.
        distributed.destroy_process_group()


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _spawn(group: Group, first_rank: int, main: Callable[..., Any], args: tuple[Any, ...]) -> None:
    """Start this machine's processes and wait for them; none outlives the call."""
    errors = mp.get_context("spawn").SimpleQueue()
    arguments = (errors, mp.get_start_method(), group, first_rank, main, args)
    # Ctrl-C reaches the processes, too. They have it blocked until they can die of it in silence.
    context = None
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        try:
            context = mp.spawn(_process, arguments, nprocs=group.local_size, join=False)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        while not context.join():
            pass
    except ProcessException as error:
        if getattr(error, "signal_name", None) == "SIGINT":
            raise KeyboardInterrupt from error
        if errors.empty():
            raise
        raise ProcessError(*errors.get()) from error
    except KeyboardInterrupt:
        for process in context.processes if context else ():
            process.kill()  # what they write is whole or not there
            process.join()
        raise


def _process(
    local_rank: int,
    errors: Any,
    start_method: str,
    group: Group,
    first_rank: int,
    main: Callable[..., Any],
    args: tuple[Any, ...],
) -> None:
    """The body of a started process."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    # A spawned process spawns its loaders' workers, too, unless told otherwise: they would take
    # seconds to start, and a copy of the dataset each.
    mp.set_start_method(start_method, force=True)
    try:
        with group.joined(first_rank + local_rank, local_rank):
            main(*args)
    except Exception as error:
        message = short_message(error)
        if message is None:
            raise  # mp.spawn brings the traceback to the parent
        errors.put((message, traceback.format_exc()))
        sys.exit(USER_ERROR)


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
