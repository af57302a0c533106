"""Trainings that verbs start: a process each, finished once, resumed where they stopped."""

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from ms_detr.errors import ConfigError, UserError
from ms_detr.files import write_text
from ms_detr.locks import handed_down, hold
from ms_detr.run_folder import (
    EVALUATION,
    FINISHED,
    LAST,
    OUTPUT,
    STARTED,
    iterations_done,
    read_metrics,
)

from ._arguments import count, expect_not, path, seed
from ._processes import Processes, processes

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
        """Return whether this very run is done.

        Raises:
            ConfigError: another run is in its folder, which it finished or would be resumed from.
        """
        done = self.folder / FINISHED
        receipts = [done]
        if (self.folder / LAST).is_file():
            receipts.append(self.folder / STARTED)
        for receipt in receipts:
            if receipt.is_file() and json.loads(receipt.read_text()) != self.description():
                raise ConfigError(
                    f"{self.folder} holds a run with another config or other overrides: "
                    "choose another --output or name"
                )
        return done.is_file()

    def description(self) -> dict[str, object]:
        """Return what makes this run, as JSON."""
        return {"config": self.config, "overrides": list(self.overrides), "seed": self.seed}

    def train(self, started: Processes, threads: int, lock: int) -> int:
        """Train in a process of its own, from the last checkpoint on, and return the exit status.

        Args:
            lock: of the folder; held for as long as the training lives, whatever ends this one.
        """
        command = [*TRAIN, self.config, "--resume", *self.overrides]
        command += [f"train.seed={self.seed}", f"train.threads={threads}"]
        command.append(f"train.output_dir={self.folder}")
        receipt = json.dumps(self.description())
        write_text(self.folder / STARTED, receipt)
        with (self.folder / OUTPUT).open("w") as output:
            status = started.run(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[lock],
                env=handed_down(lock),
            )
        if status == 0:
            write_text(self.folder / FINISHED, receipt)
        return status

    def ap(self, task: str) -> float | None:
        """Return the AP in the end, None where it wasn't measured or the run has failed."""
        from ms_detr.evaluation import read_results

        if not self.finished():
            return None
        value = read_results(self.folder / EVALUATION).get(task, {}).get("AP", math.nan)
        return None if math.isnan(value) else value

    def course(self, task: str) -> dict[int, float]:
        """Return the AP of each evaluation by the iterations done, empty where the run failed."""
        if not self.finished():
            return {}
        key = f"{task}/AP"
        lines = list(read_metrics(self.folder))
        return {
            done: line[key]
            for done, line in zip(iterations_done(lines), lines, strict=True)
            if not math.isnan(line.get(key, math.nan))
        }

    def step_seconds(self) -> float | None:
        """Return the median time of an iteration, None where none was timed or the run failed."""
        if not self.finished():
            return None
        times = [line["time"] for line in read_metrics(self.folder) if "time" in line]
        return statistics.median(times) if times else None


def add_run_arguments(
    parser: argparse.ArgumentParser, seeds: Sequence[int], output: Path | None = None
) -> None:
    """Add the arguments that say where, how often and how many at a time is trained."""
    listed = " ".join(map(str, seeds))
    parser.add_argument(
        "--seeds",
        type=seed,
        nargs="+",
        default=list(seeds),
        help=f"of the runs (default: {listed})",
    )
    parser.add_argument(
        "--output",
        type=path,
        required=output is None,
        default=output,
        help="folder of all runs" + (f" (default: {output})" if output else ""),
    )
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
        started = stack.enter_context(processes())
        # Those behind an interrupt, before a training that ends makes room for one.
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        futures = {
            pool.submit(run.train, started, threads, lock): run
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
            f"{len(failed)} runs failed, the first one in {failed[0].folder}: see its {OUTPUT}"
        )
