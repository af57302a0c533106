"""Trainings that verbs start: a process each, finished once, resumed where they stopped."""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from ms_detr.files import write_text

TASKS = {
    "bbox": "AP",
    "bbox_nms": "AP after NMS",
    "segm": "mask AP",
    "segm_nms": "mask AP after NMS",
}
STEP = "s an iteration"  # title of the column that `step_cell` fills
# Keys that each run gets from these arguments.
OURS = {"train.seed": "--seeds", "train.threads": "--threads", "train.output_dir": "--output"}


@dataclass(frozen=True)
class Run:
    """One training: a named config with its overrides, and a seed."""

    name: str
    config: str
    overrides: tuple[str, ...]
    seed: int
    folder: Path

    def __post_init__(self) -> None:
        for override in self.overrides:
            key = override.partition("=")[0]
            if key in OURS:
                raise ValueError(f"override '{override}': give {OURS[key]} instead")

    def finished(self) -> bool:
        """Whether this very run is done.

        Raises:
            ValueError: another run is in its folder, which it finished or would be resumed from.
        """
        done = self.folder / "finished.json"
        receipts = [done]
        if (self.folder / "last_checkpoint").is_file():
            receipts.append(self.folder / "started.json")
        for receipt in receipts:
            if receipt.is_file() and json.loads(receipt.read_text()) != self.description():
                raise ValueError(
                    f"{self.folder} holds a run with another config or other overrides: "
                    "choose another --output or name"
                )
        return done.is_file()

    def description(self) -> dict[str, object]:
        """What makes this run, as JSON."""
        return {"config": self.config, "overrides": list(self.overrides), "seed": self.seed}

    @contextmanager
    def lock(self) -> Iterator[int]:
        """Keep the folder for this call; yields the file's descriptor, for the training to inherit.

        Raises:
            ValueError: another call has it, or the training that one left behind.
        """
        import fcntl  # not on every system, where other verbs work

        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(
                    f"{self.folder} is still trained in by an earlier call: wait for it or end it"
                ) from None
            yield file.fileno()

    def train(self, threads: int, lock: int) -> int:
        """Train in a process of its own, from its last checkpoint on; its exit status.

        Args:
            lock: of :meth:`lock`; held for as long as the training lives, whatever ends this one.
        """
        from ms_detr.config import config_folder, find

        script = config_folder().parent / "train_net.py"
        command = [sys.executable, str(script), "--config-file", str(find(self.config)), "--resume"]
        command += [*self.overrides, f"train.seed={self.seed}", f"train.threads={threads}"]
        command.append(f'train.output_dir="{self.folder}"')  # a path may hold = and blanks
        receipt = json.dumps(self.description())
        write_text(self.folder / "started.json", receipt)
        with (self.folder / "output.txt").open("w") as output:
            status = subprocess.run(
                command, stdout=output, stderr=subprocess.STDOUT, check=False, pass_fds=[lock]
            ).returncode
        print(f"{self.name}, seed {self.seed}: exit status {status}", flush=True)
        if status == 0:
            write_text(self.folder / "finished.json", receipt)
        return status

    def ap(self, task: str) -> float | None:
        """AP of the last evaluation; None where it could not be measured, or was not."""
        results = json.loads((self.folder / "evaluation" / "results.json").read_text())
        return results[task]["AP"] if task in results else None

    def step_seconds(self) -> float | None:
        """Median time of an iteration; None where there are too few to tell."""
        lines = (self.folder / "metrics.json").read_text().splitlines()
        times = [line["time"] for line in map(json.loads, lines) if "time" in line]
        return statistics.median(times) if times else None


def add_run_arguments(parser: argparse.ArgumentParser, seeds: Sequence[int]) -> None:
    """Where, how often and how many at a time."""
    listed = " ".join(map(str, seeds))
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=list(seeds), help=f"default: {listed}"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of all runs")
    parser.add_argument("--jobs", type=int, default=1, help="trainings side by side (default: 1)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads each (default: 1)")


def train_missing(runs: Sequence[Run], jobs: int, threads: int) -> None:
    """Train what isn't finished.

    Raises:
        ValueError: another run, or a running one, is in the folder of one of them.
        ChildProcessError: some failed; names the first one's folder.
    """
    missing = [run for run in runs if not run.finished()]
    print(f"{len(runs)} runs, {len(missing)} to be trained", flush=True)
    with ExitStack() as stack, ThreadPoolExecutor(jobs) as pool:
        locks = [stack.enter_context(run.lock()) for run in missing]
        statuses = list(pool.map(lambda run, lock: run.train(threads, lock), missing, locks))
    failed = [run for run, status in zip(missing, statuses, strict=True) if status]
    if failed:
        raise ChildProcessError(
            f"{len(failed)} runs failed, the first one in {failed[0].folder}: see its output.txt"
        )


def measured_tasks(runs: Sequence[Run]) -> list[str]:
    """Tasks for a table: those of boxes, and what else some run was evaluated on."""
    return [
        task
        for task in TASKS
        if task.startswith("bbox") or any(run.ap(task) is not None for run in runs)
    ]


def step_cell(runs: Sequence[Run]) -> str:
    """Seconds of an iteration: the mean of the runs' medians."""
    times = [seconds for run in runs if (seconds := run.step_seconds()) is not None]
    return f"{statistics.mean(times):.3f}" if times else "none"


def ap_headers(tasks: Sequence[str]) -> list[str]:
    """Titles of the columns that `ap_cells` fills."""
    return [cell for task in tasks for cell in (TASKS[task], "by seed")]


def ap_cells(runs: Sequence[Run], tasks: Sequence[str]) -> list[str]:
    """Mean and single values of AP over runs that differ in their seed, task by task."""
    cells = []
    for task in tasks:
        values = [value for run in runs if (value := run.ap(task)) is not None]
        cells.append(f"{statistics.mean(values):.1f}" if values else "none")
        cells.append(" / ".join(f"{value:.1f}" for value in values))
    return cells
