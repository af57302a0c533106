"""One process for every device, on one or more machines."""

from __future__ import annotations

import functools
import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch

from ..errors import ConfigError
from ..processes import end_with_parent
from ..signals import Terminated, termination
from .checkpoint import what_is_safe
from .device import choose_device
from .slurm import as_torchruns
from .spawn import Group, Lost, spawn

logger = logging.getLogger(__name__)

TIMEOUT = timedelta(minutes=30)


def launch(
    main: Callable[..., Any],
    args: tuple[Any, ...] = (),
    *,
    num_processes: int | None = None,
    num_machines: int | None = None,
    machine_rank: int | None = None,
    dist_url: str | None = None,
    device: str = "auto",
    timeout: timedelta = TIMEOUT,
    output_dir: str | None = None,
) -> Any:
    """Call ``main(*args)`` in every process of torchrun or srun, or in as many as are asked for.

    Detectron2's Launcher needs CUDA (0.4) and knows neither.

    Args:
        main: importable, with arguments that can be pickled, when processes are started.
        num_processes: on this machine; None stands for one.
        num_machines: None stands for one.
        machine_rank: None stands for the first one's.
        dist_url: where processes meet; None or ``auto`` finds a free port on this machine.
        device: as in ``train.device``: NCCL on CUDA, gloo on the CPU.
        timeout: that a step, or a batch of an evaluation, may take in several processes; who
            takes longer ends all of them. For what takes its time, such as scoring, they wait.
        output_dir: of the run, where who is told of an early end finds what was saved.

    Returns:
        What ``main`` returns; None where processes were started.

    Raises:
        UserError, OSError: what has ended a started process, if its user can mend it.
        SystemLimitError: a started process was killed, or hangs.
        KeyboardInterrupt, Terminated: after Ctrl-C and SIGTERM, with a message.
        ConfigError: more processes than devices, machines that have no place to meet, or another
            layout than that of torchrun or srun.
    """
    os.environ.update(as_torchruns(os.environ))
    backend = "nccl" if choose_device(device).type == "cuda" else "gloo"
    asked = {
        "--num-gpus": num_processes,
        "--num-machines": num_machines,
        "--machine-rank": machine_rank,
        "--dist-url": dist_url,
    }
    if {"RANK", "WORLD_SIZE", "LOCAL_RANK"} <= os.environ.keys():
        return _join(main, args, asked, backend, timeout, output_dir)
    here, machines = (1 if count is None else count for count in (num_processes, num_machines))
    layout = ProcessLayout(here, machines, machine_rank or 0, dist_url or "auto")
    layout.check()
    if layout.world_size == 1:
        farewell = functools.partial(ended, "terminated", output_dir)
        with told_early_end(output_dir), termination.taken_over(farewell):
            return main(*args)
    _expect_devices(layout, backend, device)
    group = Group(backend, layout.meeting(), layout.world_size, layout.num_processes, timeout)
    with told_early_end(output_dir):
        spawn(group, layout.machine_rank * layout.num_processes, main, args)
    return None


@dataclass(frozen=True)
class ProcessLayout:
    """How many processes do the work on how many machines, and where they meet: see `launch`."""

    num_processes: int
    num_machines: int
    machine_rank: int
    dist_url: str

    @property
    def world_size(self) -> int:
        """The number of processes on all machines."""
        return self.num_processes * self.num_machines

    def check(self) -> None:
        """Raise ConfigError unless there are processes, and a machine of that rank."""
        counts = self.num_processes, self.num_machines
        if min(counts) < 1 or not 0 <= self.machine_rank < self.num_machines:
            raise ConfigError(
                f"--num-gpus {self.num_processes} --num-machines {self.num_machines} "
                f"--machine-rank {self.machine_rank}: counts start at 1, ranks at 0"
            )

    def meeting(self) -> str:
        """Return the URL where the processes meet.

        Raises:
            ConfigError: machines have to be told one.
        """
        if self.dist_url != "auto":
            return self.dist_url
        if self.num_machines > 1:
            raise ConfigError("several machines need --dist-url tcp://first-machine:port")
        return f"tcp://127.0.0.1:{free_port()}"


def _join(
    main: Callable[..., Any],
    args: tuple[Any, ...],
    asked: Mapping[str, Any],
    backend: str,
    timeout: timedelta,
    output_dir: str | None,
) -> Any:
    """Call ``main(*args)`` as one of the processes that torchrun or srun has started."""
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
    _expect_given(asked, world_size, local_size)
    group = Group(backend, "env://", world_size, local_size, timeout)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        end_with_parent()

    def tell(text: str) -> None:
        print(f"error: {ended(text, output_dir)}", file=sys.stderr, flush=True)

    # One process speaks for all.
    with (
        told_early_end(output_dir if rank == 0 else None),
        termination.taken_over(lambda: ended("terminated", output_dir) if rank == 0 else ""),
        group.joined(rank, int(os.environ["LOCAL_RANK"]), tell),
    ):
        return main(*args)


def _expect_devices(layout: ProcessLayout, backend: str, device: str) -> None:
    """Raise ConfigError if processes lack a GPU; warn where all of them do."""
    count = torch.cuda.device_count()
    if backend == "nccl" and layout.num_processes > count:
        raise ConfigError(
            f"--num-gpus {layout.num_processes}, but this machine has {count}; "
            "train.device=cpu runs as many processes on the CPU"
        )
    if backend == "gloo" and device == "auto":
        logger.warning(
            "no GPU is found: --num-gpus %d starts as many processes on the CPU",
            layout.num_processes,
        )


def _expect_given(asked: Mapping[str, Any], world_size: int, local_size: int) -> None:
    """Raise ConfigError where an option says otherwise than who has started the processes."""
    launcher = "srun" if "SLURM_STEP_NUM_TASKS" in os.environ else "torchrun"
    given = {
        "--num-gpus": local_size,
        "--num-machines": world_size // local_size,
        "--machine-rank": int(os.environ.get("GROUP_RANK", 0)),
        "--dist-url": "auto",
    }
    for name, value in asked.items():
        if value not in (None, given[name]):
            raise ConfigError(
                f"{name} {value}, but {launcher} has started {local_size} of {world_size} "
                f"processes here: leave {name} out, or start without {launcher}"
            )


def ended(how: str, output_dir: str | None) -> str:
    """Return the last message of a run that ended early: what is safe, and what to do."""
    return how if output_dir is None else f"{how}; {what_is_safe(output_dir)}"


@contextmanager
def told_early_end(output_dir: str | None) -> Iterator[None]:
    """Give an early end out of the block its message."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(ended("interrupted", output_dir)) from None
    except Terminated:
        raise Terminated(ended("terminated", output_dir) if output_dir else "") from None
    except Lost as error:
        raise type(error)(ended(str(error), output_dir)) from error


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
