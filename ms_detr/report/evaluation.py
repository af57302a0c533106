"""An evaluation looked into: tables, pictures and a page, of detections that are there already."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..evaluation.confusion import BACKGROUND, Confusion, confusion
from ..evaluation.detections import Detections
from ..evaluation.matches import IOUS
from ..evaluation.per_image import image_aps
from ..evaluation.results import without_nan
from ..evaluation.scoring import MAX_DETECTIONS, ClassScores, in_percent, score_classes
from ..evaluation.table import CLASS_PREFIX
from ..files import atomic_path, write_text
from ..visualization.evaluation import draw_confusion, draw_precision
from .dataset import Images
from .images import Picture
from .rendering import expect_writable, inlined, render
from .seen import NMS, Seen, look

PAGE, NUMBERS, TABLE = "evaluation.html", "evaluation.json", "images.csv"
CONFUSION, PRECISION = "confusion.png", "precision_recall.png"
WRITTEN = (PAGE, NUMBERS, TABLE, CONFUSION, PRECISION)
MISTAKES = 12  # of the confusion matrix, in words
LOWEST = 20  # images in the page's table
COLUMNS = ("image_id", "file_name", "objects", "found", "missed", "wrong", "F")


@dataclass(frozen=True)
class Options:
    """How detections are looked at.

    Attributes:
        threshold: least score of what is drawn and confused; None takes the one at which F over
            all images is largest.
        iou: the least that a detection overlaps an object in the confusion matrix.
        nms_threshold: IoU of the NMS that detections are scored after, too.
        max_detections: of a class in an image that are scored.
        worst: so many of the worst images are drawn, and of the best.
    """

    threshold: float | None = None
    iou: float = 0.5
    nms_threshold: float = NMS
    max_detections: int = MAX_DETECTIONS
    worst: int = 8


@dataclass(frozen=True, eq=False)
class Study:
    """What is found out about detections on a dataset.

    Attributes:
        results: by task, as `CocoEvaluator.evaluate` returns them; after NMS, too.
        scores: by task, what COCO's metric knows of each class, by its number.
        aps: of images by their ids, by task without NMS; see `image_aps`.
    """

    data: Images
    detections: Detections
    options: Options
    results: dict[str, dict[str, float]]
    scores: dict[str, dict[int, ClassScores]]
    aps: dict[str, dict[int, float]]
    confusion: Confusion
    seen: Seen

    @property
    def class_names(self) -> Sequence[str]:
        return self.data.truth.class_names

    def by_iou(self) -> dict[str, dict[str, float]]:
        """AP at each IoU by task, in percent."""
        result = {}
        for task in self.results:
            precision = self.precision(task)
            there = ~np.isnan(precision[0, 0])
            values = precision[..., there].mean((1, 2)) * 100 if there.any() else [math.nan] * 10
            result[task] = {f"{t:.2f}": float(v) for t, v in zip(IOUS, values, strict=True)}
        return result

    def by_class(self) -> dict[str, dict[str, dict[str, float]]]:
        """All metrics of each class by task."""
        return {
            name: {
                task: {
                    metric: value
                    for metric, value in in_percent(
                        {0: scores[k]}, [name], self.options.max_detections
                    ).items()
                    if not metric.startswith(CLASS_PREFIX)
                }
                for task, scores in self.scores.items()
            }
            for k, name in enumerate(self.class_names)
        }

    def precision(self, task: str) -> np.ndarray:
        """Precision at 101 recalls, (IoUs, recalls, classes); NaN of a class without objects."""
        classes = [self.scores[task][k].precision[:, :, 0, 0] for k in range(len(self.class_names))]
        values = np.stack(classes, -1)
        return np.where(values < 0, np.nan, values)

    def images(self) -> list[dict[str, Any]]:
        """A row an image, in the order of the ids: see `COLUMNS`, and its AP by task."""
        rows = []
        for image, record in self.data.records.items():
            matches = self.seen.matches[image]
            tally = matches.tally(self.seen.threshold)
            counts = matches.objects, tally.found, tally.missed, tally.wrong, tally.f
            row = dict(zip(COLUMNS, (image, record["file_name"], *counts), strict=True))
            rows.append(row | {f"{task} AP": of.get(image) for task, of in self.aps.items()})
        return rows

    def numbers(self) -> dict[str, Any]:
        """Everything as plain numbers for JSON; None where nothing could be found."""
        truth, tally = self.data.truth, self.seen.tally
        content = {
            "images": len(truth.sizes),
            "objects": int((~truth.crowds).sum()),
            "detections": len(self.detections.scores),
            "max_detections": self.options.max_detections,
            "nms_threshold": self.options.nms_threshold,
            "threshold": self.seen.threshold,
            "at_threshold": {"found": tally.found, "missed": tally.missed, "wrong": tally.wrong},
            "results": self.results,
            "by_iou": self.by_iou(),
            "classes": {
                name: {"objects": self.seen.objects[name], **tasks}
                for name, tasks in self.by_class().items()
            },
            "confusion": {
                "iou": self.confusion.iou,
                "classes": [*self.class_names, BACKGROUND],
                "counts": self.confusion.counts.tolist(),
            },
            "worst_images": [picture.image_id for picture in self.seen.worst],
        }
        return without_nan(content)


def study(data: Images, detections: Detections, options: Options) -> Study:
    """Find out all that there is about detections on a dataset.

    Args:
        detections: of its images, with NMS done, as `read_detections` returns them.

    Raises:
        ImageError: an image that is to be drawn can't be read.
    """
    truth, most = data.truth, options.max_detections
    masks = truth.masks is not None and detections.masks is not None
    names = truth.class_names
    scores, results, aps = {}, {}, {}
    for kind in ("bbox", "segm") if masks else ("bbox",):
        both = score_classes(truth, detections, range(len(names)), kind, most)
        for task, of_all in zip((kind, f"{kind}_nms"), both, strict=True):
            scores[task], results[task] = of_all, in_percent(of_all, names, most)
        aps[kind] = image_aps(truth, detections, kind, most)
    seen = look(data, detections, options.nms_threshold, options.threshold, options.worst)
    confused = confusion(truth, detections, seen.threshold, options.iou)
    return Study(data, detections, options, results, scores, aps, confused, seen)


def write_study(found: Study, folder: Path, name: str) -> list[Path]:
    """Write a page, the numbers as JSON, a table of the images, and pictures.

    Args:
        name: of what was evaluated, for the page's title.

    Returns:
        The files; the page is the first.

    Raises:
        ConfigError: nothing can be written into the folder.
        OSError: a file can't be written.
    """
    expect_writable(folder)
    pictures = [
        draw_precision(found.precision("bbox"), found.class_names, folder / PRECISION),
        draw_confusion(found.confusion, folder / CONFUSION),
    ]
    for earlier in folder.glob("worst_[0-9]*_*.webp"):  # an earlier evaluation's
        earlier.unlink()
    for rank, picture in enumerate(found.seen.worst, 1):
        pictures.append(_write_picture(picture, folder / f"worst_{rank}_{picture.image_id}.webp"))
    write_text(folder / NUMBERS, json.dumps(found.numbers(), indent=1, allow_nan=False) + "\n")
    rows = found.images()
    write_text(folder / TABLE, _table(rows))
    write_text(folder / PAGE, _page(found, name, pictures[:2], rows))
    return [folder / PAGE, folder / NUMBERS, folder / TABLE, *pictures]


def _write_picture(picture: Picture, file: Path) -> Path:
    with atomic_path(file) as path:
        path.write_bytes(picture.content)
    return file


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    table = csv.DictWriter(text, rows[0].keys() if rows else COLUMNS, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()


def _page(
    found: Study, name: str, pictures: Sequence[Path], rows: Sequence[Mapping[str, Any]]
) -> str:
    truth = found.data.truth
    facts = [
        ("images", len(truth.sizes)),
        ("objects", int((~truth.crowds).sum())),
        ("detections", len(found.detections.scores)),
        *((f"{task} AP", f"{values['AP']:.2f}") for task, values in found.results.items()),
    ]
    known = [row for row in rows if row["bbox AP"] is not None]
    recalls = [metric for metric in found.results["bbox"] if metric.startswith("AR")]
    precision, confused = pictures
    return render(
        "evaluation.html",
        found.results,
        found.seen,
        name=name,
        facts=facts,
        recalls=recalls,
        by_iou=found.by_iou(),
        precision=inlined(precision),
        confused=inlined(confused),
        confusion=found.confusion,
        mistakes=found.confusion.largest(MISTAKES),
        lowest=sorted(known, key=lambda row: row["bbox AP"])[:LOWEST],
    )
