"""The files of an evaluation. What could not be written is a result all the same."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from ..errors import DataError, SystemLimitError
from ..files import atomic_path, reason, write_text
from ..run_folder import PREDICTIONS, RESULTS
from .detections import ImageDetections


class UnwrittenError(SystemLimitError):
    """The files of an evaluation could not be written.

    Attributes:
        results: what the evaluation has led to.
    """

    def __init__(self, message: str, results: Mapping[str, Any]):
        super().__init__(message)
        self.results = results


def write_results(
    folder: str | os.PathLike[str],
    results: Mapping[str, Mapping[str, float]],
    images: Sequence[ImageDetections],
    category_ids: Sequence[int],
) -> None:
    """Write an evaluation's results, and its detections in COCO's format.

    Raises:
        UnwrittenError: the system can't write there.
    """
    try:
        with (
            atomic_path(Path(folder, PREDICTIONS)) as path,
            path.open("w", encoding="utf-8") as file,
        ):
            _write_detections(file, images, category_ids)
        write_text(Path(folder, RESULTS), json.dumps(without_nan(results)))
    except OSError as error:
        raise UnwrittenError(
            f"{error.filename}: {reason(error)}; the results are in the log alone", results
        ) from error


def read_results(folder: str | os.PathLike[str]) -> dict[str, dict[str, float]]:
    """Return what an evaluator wrote into its ``output_dir``; NaN for what has no value.

    Raises:
        DataError: the file is damaged.
    """
    path = Path(folder, RESULTS)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {
            task: {k: math.nan if value is None else float(value) for k, value in values.items()}
            for task, values in content.items()
        }
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is damaged ({error}): remove it, or evaluate once more") from error


def without_nan(value: Any) -> Any:
    """Return what JSON can hold: None in the place of NaN, anywhere in dicts and lists."""
    if isinstance(value, Mapping):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _write_detections(
    file: TextIO, images: Sequence[ImageDetections], category_ids: Sequence[int]
) -> None:
    """Write COCO's result format, image by image: the text of all may take 100 MB."""
    file.write("[")
    separator = ""
    for image in images:
        if len(image.scores):
            file.write(separator + json.dumps(list(image.in_coco_format(category_ids)))[1:-1])
            separator = ", "
    file.write("]")
