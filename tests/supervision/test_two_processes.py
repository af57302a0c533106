import json
import subprocess
import sys

import pytest

from ..modeling.support import ROOT
from . import two_processes

MODULE = "tests.supervision.two_processes"
# Objects of each process's images.
BATCHES = [[[3, 1], [0, 1]], [[2], [2]], [[1, 0], [0, 0]], [[0], [0]]]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What both processes got, `results[rank][batch]`."""
    folder = tmp_path_factory.mktemp("two_processes")
    running = []
    for rank in range(2):
        batches = json.dumps([counts[rank] for counts in BATCHES])
        words = [str(rank), folder / "meeting", folder / f"{rank}.json", batches]
        running.append(subprocess.Popen([sys.executable, "-m", MODULE, *words], cwd=ROOT))
    try:
        for process in running:
            assert process.wait(timeout=120) == 0
    finally:
        for process in running:
            process.kill()
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("batch", range(len(BATCHES)), ids=lambda i: str(BATCHES[i]))
def test_objects_are_counted_over_all_processes(results, batch):
    """Averaged over processes, the losses are those of one process with all images.

    There the published code divides by ``max(copies * objects, 1)``: of two copies each, or, as
    Group DETR's groups, of all five that the terms of one average have.
    """
    counts = BATCHES[batch]
    total = sum(map(sum, counts))
    for rank in range(2):
        objects, processes, losses = results[rank][batch]
        assert (objects, processes) == (total, 2)
        own = sum(counts[rank])
        alone_objects, alone_processes, alone = two_processes.compute(counts[rank])
        assert (alone_objects, alone_processes) == (own, 1)
        names = [name.removeprefix("all/") for name in losses if name.startswith("all/")]
        assert len(names) == len(losses) / 3 == 4
        for name in names:
            added_up = alone[f"all/{name}"] * max(2 * own, 1)
            assert losses[f"own/{name}"] == alone[f"own/{name}"] == alone[f"all/{name}"]
            for term, copies in (("all", 2), ("five", 5)):
                expected = added_up / (max(copies * total, 1) / 2)
                assert losses[f"{term}/{name}"] == pytest.approx(expected, rel=1e-12)
