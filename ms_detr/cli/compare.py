"""Train several configs with several seeds and tabulate their APs.

A run is finished once: called again, the command goes on where it was interrupted.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Run:
    """One training: a named config with its overrides, and a seed."""

    name: str
    config: str
    overrides: tuple[str, ...]
    seed: int
    folder: Path

    @property
    def results(self) -> Path:
        return self.folder / "evaluation" / "results.json"

    @property
    def receipt(self) -> Path:
        """Says what was trained; written when training and last evaluation are through."""
        return self.folder / "finished.json"

    def finished(self) -> bool:
        """Whether this very run is done.

        Raises:
            ValueError: another run is in its folder.
        """
        if not self.receipt.is_file():
            return False
        if json.loads(self.receipt.read_text()) != self.description():
            raise ValueError(
                f"{self.folder} holds a run with another config or other overrides: "
                "choose another --output or name"
            )
        return True

    def description(self) -> dict[str, object]:
        """What makes this run, as JSON."""
        return {"config": self.config, "overrides": list(self.overrides), "seed": self.seed}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument(
        "--run",
        action="append",
        nargs="+",
        required=True,
        metavar=("NAME", "CONFIG"),
        dest="runs",
        help="NAME CONFIG [key=value ...]; once for every row of the table",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, required=True, help="folder of all runs")
    parser.add_argument("--jobs", type=int, default=1, help="trainings side by side (default: 1)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads each (default: 1)")


def run(args: argparse.Namespace) -> int:
    """Train what is missing, then print the table."""
    for words in args.runs:
        if len(words) < 2:
            raise ValueError(f"--run {words[0]}: a name needs a config behind it")
    names = [words[0] for words in args.runs]
    if len(set(names)) < len(names):
        raise ValueError(f"--run: every run needs a name of its own, got {names}")
    runs = [
        Run(name, config, tuple(overrides), seed, args.output / name / f"seed{seed}")
        for seed in args.seeds
        for name, config, *overrides in args.runs
    ]
    missing = [job for job in runs if not job.finished()]
    print(f"{len(runs)} runs, {len(missing)} to be trained", flush=True)
    with ThreadPoolExecutor(args.jobs) as pool:
        failed = [job for job in pool.map(lambda job: _train(job, args.threads), missing) if job]
    if failed:
        raise ChildProcessError(
            f"{len(failed)} runs failed, the first one in {failed[0].folder}: see its output.txt"
        )
    print(table(runs))
    return 0


def _train(job: Run, threads: int) -> Run | None:
    """Train one run in a process of its own; the run if it failed."""
    from ms_detr.config import config_folder, find

    script = config_folder().parent / "train_net.py"
    job.folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(script), "--config-file", str(find(job.config)), "--resume"]
    command += [*job.overrides, f"train.seed={job.seed}", f"train.threads={threads}"]
    command += [f"train.output_dir={job.folder}"]
    with (job.folder / "output.txt").open("w") as output:
        status = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False)
    print(f"{job.name}, seed {job.seed}: exit status {status.returncode}", flush=True)
    if status.returncode:
        return job
    job.receipt.write_text(json.dumps(job.description()))
    return None


def table(runs: Sequence[Run]) -> str:
    """A row a name: mean and single values of AP over the seeds, with and without NMS.

    Mask AP where a run has it.
    """
    from tabulate import tabulate

    results = {job: json.loads(job.results.read_text()) for job in runs}
    tasks = {"bbox": "AP", "bbox_nms": "AP after NMS"}
    for task, title in {"segm": "mask AP", "segm_nms": "mask AP after NMS"}.items():
        if any(task in result for result in results.values()):
            tasks[task] = title
    rows = []
    for name in dict.fromkeys(job.name for job in runs):
        row: list[str] = [name]
        mine = [result for job, result in results.items() if job.name == name]
        for task in tasks:
            values = [result[task]["AP"] for result in mine if task in result]
            row.append(f"{statistics.mean(values):.1f}" if values else "none")
            row.append(" / ".join(f"{value:.1f}" for value in values))
        rows.append(row)
    headers = ["run", *(cell for title in tasks.values() for cell in (title, "by seed"))]
    return tabulate(rows, headers, tablefmt="pipe", disable_numparse=True)
