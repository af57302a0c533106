"""One of two processes: counts objects and computes losses, writes what it got as JSON.

Arguments: rank, file to meet in, file to write, objects of this rank's images in every batch as
JSON, e.g. "[[3, 1], [0]]".
"""

import dataclasses
import json
import sys
from pathlib import Path

import torch

from ms_detr.structures import Predictions, PredictionSet, Targets
from ms_detr.supervision import (
    Criterion,
    FocalLoss,
    L1Loss,
    LocalObjects,
    Losses,
    RepeatedHungarianAssigner,
    SupervisionTerm,
    Terms,
    count_objects,
)

from ..processes import gloo


def scene(counts):
    """Predictions and targets that depend on nothing but the objects of each image."""
    generator = torch.Generator().manual_seed(sum(counts))

    def rand(*size):
        return torch.rand(size, generator=generator, dtype=torch.float64)

    images = [{"labels": torch.zeros(n).long(), "boxes": rand(n, 4)} for n in counts]
    made = PredictionSet(rand(2, len(counts), 5, 3), rand(2, len(counts), 5, 4))
    made = {"decoder": made, "five": dataclasses.replace(made, peers=5)}
    return Predictions(made), Targets.from_list(images)


def compute(counts):
    """(objects, processes, {name: loss}) of terms that count all objects, or those here alone."""
    predictions, targets = scene(counts)
    losses = Losses(**{"class": FocalLoss(2.0)}, bbox=L1Loss(5.0))
    common = "decoder", RepeatedHungarianAssigner(k=2), losses
    terms = Terms(
        all=SupervisionTerm(*common),
        own=SupervisionTerm(*common, objects=LocalObjects()),
        five=SupervisionTerm("five", *common[1:], weight=2.0),
    )
    criterion = Criterion(terms)
    values = {name: loss.item() for name, loss in criterion(predictions, targets).items()}
    objects = count_objects(targets)
    return objects.total.item(), objects.processes, values


def main():
    rank, meeting, out, batches = sys.argv[1:]
    with gloo(meeting).joined(int(rank), int(rank)):
        Path(out).write_text(json.dumps([compute(counts) for counts in json.loads(batches)]))


if __name__ == "__main__":
    main()
