"""Processes that join a group leave it whole, and may join the next one."""

import multiprocessing
from pathlib import Path

import pytest
import torch
from detectron2.utils import comm
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from ms_detr.engine.spawn import leave_group

from ..processes import gloo


def group_threads() -> list[str]:
    """Threads of this process that PyTorch and gloo have started for a group."""
    tasks = Path("/proc/self/task").glob("*/comm")
    return [name for task in tasks if "gloo" in (name := task.read_text().strip())]


def join_twice(rank: int, meeting: Path, results) -> None:
    torch.set_num_threads(1)
    found = []
    for number in range(2):
        with gloo(meeting / str(number)).joined(rank, rank):
            model = DistributedDataParallel(torch.nn.Linear(2, 2))
            model(torch.full((1, 2), float(rank))).sum().backward()
            del model
            everywhere = comm.all_gather((number, rank))
            local = (comm.get_local_rank(), comm.get_local_size())
            during = len(group_threads())
        found.append((everywhere, local, during > 0, group_threads()))
    results.put((rank, found))


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux's /proc")
def test_a_group_is_left_with_its_threads(tmp_path):
    """One that is still at work while Python ends aborts the process (seen, once in many runs)."""
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [
        context.Process(target=join_twice, args=(rank, tmp_path, results)) for rank in range(2)
    ]
    for process in processes:
        process.start()
    for _ in processes:
        rank, found = results.get(timeout=100)
        both = [[(number, 0), (number, 1)] for number in range(2)]
        assert found == [(both[number], (rank, 2), True, []) for number in range(2)]
    for process in processes:
        process.join()
        assert process.exitcode == 0


def test_nobody_leaves_a_group_otherwise():
    """Tests, too, leave by `leave_group`."""
    root = Path(__file__).resolve().parents[2]
    name = distributed.destroy_process_group.__name__
    users = [
        path.relative_to(root).as_posix()
        for folder in ("ms_detr", "tests")
        for path in (root / folder).rglob("*.py")
        if f"{name}()" in path.read_text(encoding="utf-8")
    ]
    assert users == [leave_group.__module__.replace(".", "/") + ".py"]
