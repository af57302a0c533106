"""Processes that SLURM's srun has started, as torchrun's variables describe them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ..errors import ConfigError

PORTS = range(15000, 45000)  # of which a job takes one


def as_torchruns(environ: Mapping[str, str]) -> dict[str, str]:
    """Torchrun's variables for a task of ``srun``; empty for any other process.

    Those that are set already stay, so that a meeting point may be chosen by ``MASTER_ADDR`` and
    ``MASTER_PORT``. A batch script itself is no task, whatever the job has asked for.

    Raises:
        ConfigError: the ranks on a node don't follow each other, as those of a machine have to.
    """
    tasks = int(environ.get("SLURM_STEP_NUM_TASKS", 0))
    if tasks < 2 or not {"SLURM_PROCID", "SLURM_LOCALID"} <= environ.keys():
        return {}
    node = int(environ.get("SLURM_NODEID", 0))
    sizes = tasks_by_node(environ.get("SLURM_STEP_TASKS_PER_NODE", str(tasks)))
    job = int(environ.get("SLURM_JOB_ID", 0)) + int(environ.get("SLURM_STEP_ID", 0))
    found = {
        "RANK": environ["SLURM_PROCID"],
        "WORLD_SIZE": str(tasks),
        "LOCAL_RANK": environ["SLURM_LOCALID"],
        "LOCAL_WORLD_SIZE": str(sizes[node]),
        "GROUP_RANK": str(node),
        "MASTER_ADDR": first_host(environ.get("SLURM_STEP_NODELIST", "127.0.0.1")),
        "MASTER_PORT": str(PORTS[job % len(PORTS)]),
    }
    described = {name: environ.get(name, value) for name, value in found.items()}
    _expect_blocks(int(described["RANK"]), int(described["LOCAL_RANK"]), node, sizes)
    return described


def _expect_blocks(rank: int, local_rank: int, node: int, sizes: Sequence[int]) -> None:
    expected = sum(sizes[:node]) + local_rank
    if rank != expected:
        raise ConfigError(
            f"srun has made task {rank} what has to be task {expected}, number {local_rank} on "
            f"node {node}: the tasks of a node must follow each other, start them with "
            "srun --distribution=block"
        )


def tasks_by_node(text: str) -> list[int]:
    """Numbers of tasks, such as 4, 4 and 2 for ``4(x2),2``."""
    found = re.findall(r"(\d+)(?:\(x(\d+)\))?", text)
    return [int(tasks) for tasks, nodes in found for _ in range(int(nodes or 1))]


def first_host(text: str) -> str:
    """The first of a list of hosts, such as a03 for ``a[03-05,09],b1``."""
    match = re.match(r"([^,\[]+)(?:\[(\d+)[^\]]*\])?([^,]*)", text)
    return "".join(part or "" for part in match.groups()) if match else text
