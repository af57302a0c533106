"""The files in a run's folder, ``train.output_dir``: their names, and how its numbers are read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

LOCK = "lock"

# Checkpoints, beside the periodic ones.
LAST = "last_checkpoint"  # Detectron2's name: holds the file name of the newest checkpoint
FINAL = "model_final.pth"
BEST = "model_best.pth"
EMA = "model_ema.pth"  # averages of the weights, see `ms_detr.engine.ema`

AVERAGED = "ema/"  # starts the names of metrics of the weights' average

CONFIG = "config.yaml"  # to read
OWN_CONFIG = "config.py"  # of data of one's own, see `ms_detr.own_data`
METRICS = "metrics.json"
TOTAL = "total_loss"  # in METRICS, of each iteration that is logged
LOG = "log.txt"
REPORT = "report.html"
EVALUATION = "evaluation"  # the folder of the next two
RESULTS = "results.json"
PREDICTIONS = "coco_instances_results.json"  # Detectron2's name
EVAL_ONLY = "eval_only"  # where an evaluation alone leaves what it writes

COMPARED = "output/compared"  # of models that are compared: where checkpoints' detections go

# Of runs that verbs start.
STARTED = "started.json"
FINISHED = "finished.json"
OUTPUT = "output.txt"

PERIODIC = re.compile(r"model_(\d{7,})\.pth")


def periodic(iteration: int) -> str:
    """The name of the checkpoint after an iteration, which `PERIODIC` matches."""
    return f"model_{iteration:07d}.pth"


def log_of(rank: int) -> str:
    """The name of a process's log."""
    return f"log.rank{rank}.txt" if rank else LOG


def read_metrics(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield what a run has logged, line by line, each with its iteration."""
    for line in (folder / METRICS).read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            found = json.loads(line)
        except ValueError:
            continue  # half a line, of a run that was killed or is writing it
        if isinstance(found, dict) and isinstance(found.get("iteration"), int):
            yield found


def iterations_done(lines: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return after how many iterations each line of a run's metrics was logged.

    The evaluation behind a training is logged as of the iteration that would come next.
    """
    trained = max((line["iteration"] for line in lines if TOTAL in line), default=0)
    return [min(line["iteration"], trained) + 1 for line in lines]
