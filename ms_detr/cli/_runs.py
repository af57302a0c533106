"""Trainings that verbs start: a process each, finished once, resumed where they stopped."""

import argparse
import json
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from ms_detr.errors import ConfigError, UserError
from ms_detr.files import write_text
from ms_detr.locks import handed_down, hold

from ._arguments import count, expect_not, path, seed

TASKS = {
    "bbox": "AP",
    "bbox_nms": "AP after NMS",
    "segm": "mask AP",
    "segm_nms": "mask AP after NMS",
}
TRAIN = (sys.executable, "-m", "ms_detr", "train")
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
        expect_not(self.overrides, OURS)

    def finished(self) -> bool:
        """Whether this very run is done.

        Raises:
            ConfigError: another run is in its folder, which it finished or would be resumed from.
        """
        done = self.folder / "finished.json"
        receipts = [done]
        if (self.folder / "last_checkpoint").is_file():
            receipts.append(self.folder / "started.json")
        for receipt in receipts:
            if receipt.is_file() and json.loads(receipt.read_text()) != self.description():
                raise ConfigError(
                    f"{self.folder} holds a run with another config or other overrides: "
                    "choose another --output or name"
                )
        return done.is_file()

    def description(self) -> dict[str, object]:
        """What makes this run, as JSON."""
        return {"config": self.config, "overrides": list(self.overrides), "seed": self.seed}

    def train(self, processes: "Processes", threads: int, lock: int) -> int:
        """Train in a process of its own, from its last checkpoint on; its exit status.

        Args:
            lock: of the folder; held for as long as the training lives, whatever ends this one.
        """
        command = [*TRAIN, self.config, "--resume", *self.overrides]
        command += [f"train.seed={self.seed}", f"train.threads={threads}"]
        command.append(f"train.output_dir={self.folder}")
        receipt = json.dumps(self.description())
        write_text(self.folder / "started.json", receipt)
        with (self.folder / "output.txt").open("w") as output:
            status = processes.run(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[lock],
                env=handed_down(lock),
            )
        if status == 0:
            write_text(self.folder / "finished.json", receipt)
        return status

    def ap(self, task: str) -> float | None:
        """AP in the end; None where it could not be measured, was not, or the run failed."""
        if not self.finished():
            return None
        results = json.loads((self.folder / "evaluation" / "results.json").read_text())
        return results[task]["AP"] if task in results else None

    def step_seconds(self) -> float | None:
        """Median time of an iteration; None where there are too few to tell, or the run failed."""
        if not self.finished():
            return None
        lines = (self.folder / "metrics.json").read_text().splitlines()
        times = [line["time"] for line in map(json.loads, lines) if "time" in line]
        return statistics.median(times) if times else None


class Processes:
    """Those that live no longer than a ``with`` block: an interrupt or SIGTERM ends them, too.

    Of several threads; the block itself belongs into the main one, where signals arrive.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen] = set()
        self._ended = False

    def __enter__(self) -> "Processes":
        self._handler = signal.signal(signal.SIGTERM, _exit)
        # Who had SIGTERM before mustn't hear of it by another way.
        self._wakeup = signal.set_wakeup_fd(-1)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGTERM, self._handler)
        signal.set_wakeup_fd(self._wakeup)
        with self._lock:
            self._ended = True
            if self._running:
                print(
                    f"trainings ended early: {len(self._running)}; call again to go on", flush=True
                )
            for process in self._running:
                process.terminate()
        for process in list(self._running):
            process.wait()  # it may have a checkpoint to write

    def run(self, command: Sequence[str], **options: Any) -> int:
        """A command's exit status; that of SIGTERM where the block has ended already."""
        with self._lock:
            if self._ended:
                return -signal.SIGTERM
            process = subprocess.Popen(command, **options)
            self._running.add(process)
        status = process.wait()
        with self._lock:
            self._running.remove(process)
        return status


def _exit(number: int, _: object) -> None:
    sys.exit(128 + number)


def add_run_arguments(parser: argparse.ArgumentParser, seeds: Sequence[int]) -> None:
    """Where, how often and how many at a time."""
    listed = " ".join(map(str, seeds))
    parser.add_argument(
        "--seeds", type=seed, nargs="+", default=list(seeds), help=f"default: {listed}"
    )
    parser.add_argument("--output", type=path, required=True, help="folder of all runs")
    parser.add_argument("--jobs", type=count, default=1, help="trainings side by side (default: 1)")
    parser.add_argument("--threads", type=count, default=1, help="CPU threads each (default: 1)")


def expect_own_seeds(seeds: Sequence[int]) -> None:
    """Raise ConfigError where one is named twice."""
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"--seeds: name every seed once, got {seeds}")


def train_missing(runs: Sequence[Run], jobs: int, threads: int) -> list[Run]:
    """Train what isn't finished, and say how long it will take.

    Returns:
        The runs that failed.

    Raises:
        ConfigError: another run, or a running one, is in the folder of one of them.
    """
    missing = [run for run in runs if not run.finished()]
    print(f"{len(runs)} runs, {len(missing)} to be trained", flush=True)
    failed = []
    start = time.monotonic()
    with ThreadPoolExecutor(jobs) as pool, ExitStack() as stack:
        locks = [stack.enter_context(hold(run.folder)) for run in missing]
        processes = stack.enter_context(Processes())
        # Those behind an interrupt, before a training that ends makes room for one.
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        futures = {
            pool.submit(run.train, processes, threads, lock): run
            for run, lock in zip(missing, locks, strict=True)
        }
        for done, future in enumerate(as_completed(futures), 1):
            run, status = futures[future], future.result()
            if status:
                failed.append(run)
            ended = "finished" if status == 0 else f"exit status {status}"
            left = (time.monotonic() - start) / done * (len(missing) - done)
            eta = f", eta {timedelta(seconds=round(left))}" if done < len(missing) else ""
            print(f"{done}/{len(missing)} {run.name}, seed {run.seed}: {ended}{eta}", flush=True)
    return failed


def expect_none(failed: Sequence[Run]) -> None:
    """Raise UserError, which names the first one's folder, if runs failed."""
    if failed:
        raise UserError(
            f"{len(failed)} runs failed, the first one in {failed[0].folder}: see its output.txt"
        )


def measured_tasks(runs: Sequence[Run]) -> list[str]:
    """Tasks for a table: those of boxes, and what else some run was evaluated on."""
    return [
        task
        for task in TASKS
        if task.startswith("bbox") or any(run.ap(task) is not None for run in runs)
    ]


def ap_table(
    keys: Sequence[str], rows: Sequence[tuple[Sequence[str], Sequence[Run]]], tasks: Sequence[str]
) -> str:
    """A row for runs that differ in their seed: cells for ``keys``, their APs, an iteration's time.

    AP is the mean over the seeds with the single values; the time is the mean of medians.
    """
    from tabulate import tabulate

    titles = [cell for task in tasks for cell in (TASKS[task], "by seed")]
    headers = (*keys, *titles, "s an iteration")
    cells = [[*words, *_ap_cells(runs, tasks), _step_cell(runs)] for words, runs in rows]
    return tabulate(cells, headers, tablefmt="pipe", disable_numparse=True)


def _step_cell(runs: Sequence[Run]) -> str:
    times = [seconds for run in runs if (seconds := run.step_seconds()) is not None]
    return f"{statistics.mean(times):.3f}" if times else "none"


def _ap_cells(runs: Sequence[Run], tasks: Sequence[str]) -> list[str]:
    cells = []
    for task in tasks:
        values = [value for run in runs if (value := run.ap(task)) is not None]
        cells.append(f"{statistics.mean(values):.1f}" if values else "none")
        cells.append(" / ".join(f"{value:.1f}" for value in values))
    return cells
