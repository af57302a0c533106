import json
import subprocess
import sys
from pathlib import Path

import pytest

from . import two_processes

SCRIPT = Path(two_processes.__file__)
# Objects of each process's images, and N+: all objects, at least one, over two processes.
BATCHES = [
    ([[3, 1], [0, 1]], 2.5),
    ([[2], [2]], 2.0),
    ([[1, 0], [0, 0]], 0.5),
    ([[0], [0]], 0.5),
]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What both processes got, `results[rank][batch]`."""
    folder = tmp_path_factory.mktemp("two_processes")
    running = []
    for rank in range(2):
        batches = json.dumps([counts[rank] for counts, _ in BATCHES])
        command = [sys.executable, SCRIPT, str(rank), folder / "meeting", folder / f"{rank}.json"]
        running.append(subprocess.Popen([*command, batches]))
    try:
        for process in running:
            assert process.wait(timeout=120) == 0
    finally:
        for process in running:
            process.kill()
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("batch", range(len(BATCHES)), ids=lambda i: str(BATCHES[i][0]))
def test_objects_are_counted_over_all_processes(results, batch):
    counts, expected = BATCHES[batch]
    for rank in range(2):
        num_objects, losses = results[rank][batch]
        assert num_objects == expected
        alone, local = two_processes.compute(counts[rank])
        assert alone == max(1, sum(counts[rank]))
        names = [name.removeprefix("all/") for name in losses if name.startswith("all/")]
        assert len(names) == len(losses) / 2 == 4
        for name in names:
            assert losses[f"all/{name}"] == pytest.approx(local[f"all/{name}"] * alone / expected)
            assert losses[f"own/{name}"] == local[f"own/{name}"] == local[f"all/{name}"]
