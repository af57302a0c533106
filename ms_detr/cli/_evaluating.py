"""What `ms-detr evaluate` does with detections: looks into them, writes, and tells in short."""

import contextlib
import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ms_detr.errors import ConfigError, DataError

from ._arguments import STDOUT, expect_folder
from ._tasks import Evaluation

if TYPE_CHECKING:
    from ms_detr.report import Images, Options, Study
    from ms_detr.report.images import Picture

MISTAKES, IMAGES = 5, 5  # that the terminal is told of
EVALUATOR = "dataloader.evaluator"


@dataclass(frozen=True)
class Looking:
    """How detections are looked at, and where to what is found goes: the verb's arguments."""

    output: Path | None
    json: Path | None
    threshold: float | None
    iou: float
    nms: float | None
    worst: int

    def expect_places(self) -> None:
        """Make sure, before anything is predicted, that results can be written.

        Raises:
            OSError: the system can't write there.
            ConfigError: the JSON's place is a folder.
        """
        if self.json is not None and self.json != STDOUT:
            if self.json.is_dir():
                raise ConfigError(f"{self.json} is a folder: give a file")
            expect_folder(self.json.parent)
        if self.output is not None:
            expect_folder(self.output)

    def options(self, cfg: Any) -> "Options":
        """As the report has them; what isn't given is the config's."""
        from omegaconf import OmegaConf

        from ms_detr.report import Options, detection_limit
        from ms_detr.report.seen import NMS

        measured = OmegaConf.select(cfg, f"{EVALUATOR}.nms_threshold")
        nms = self.nms if self.nms is not None else measured
        limit = detection_limit(partial(OmegaConf.select, cfg))
        return Options(self.threshold, self.iou, NMS if nms is None else nms, limit, self.worst)


@contextlib.contextmanager
def stdout_for_json(json: Path | None) -> Iterator[None]:
    """In the block everything else goes to stderr, if the standard output gets the JSON."""
    target = sys.stderr if json == STDOUT else sys.stdout
    with contextlib.redirect_stdout(target):
        yield


@dataclass(frozen=True)
class StudiedEvaluation(Evaluation):
    """Evaluate weights, and look into what they have found. Called in every process."""

    looking: Looking

    def __call__(self) -> Mapping[str, Any]:
        from ms_detr.config import load

        with stdout_for_json(self.looking.json):
            results = super().__call__()
            if not results:
                return results  # of the main process alone there are any
            cfg = load(self.config, self.overrides)
            try:
                place = _predictions(cfg)
                data = _dataset_of(cfg)
            except DataError as error:
                print(f"not looked into: {error}")
                return results
            name = f"{Path(self.config).stem}, {Path(str(self.weights)).name}"
            found = _study(cfg, data, place, self.looking)
            _write(found, self.looking.output or place, name)
        write_json(found.numbers(), self.looking.json)
        return results


def study_file(config: str, overrides: tuple[str, ...], file: Path, looking: Looking) -> None:
    """Score a file of COCO's results, and look into it."""
    from ms_detr.config import load
    from ms_detr.evaluation import format_results
    from ms_detr.report.evaluation import WRITTEN

    cfg = load(config, overrides)
    looking.expect_places()
    name = f"{Path(config).stem}, {file.name}"
    folder = looking.output or file.parent
    expect_others([*(folder / name for name in WRITTEN), looking.json], [file])
    with stdout_for_json(looking.json):
        found = _study(cfg, _dataset_of(cfg), file, looking)
        print(f"{format_results(found.results)}\n")
        _write(found, folder, name)
    write_json(found.numbers(), looking.json)


def expect_others(written: Iterable[Path | None], read: Iterable[Path]) -> None:
    """Raise ConfigError where a file that is written is one that is read."""
    sources = [path.resolve() for path in read]
    for path in written:
        if path is not None and path.resolve() in sources:
            raise ConfigError(f"{path} would be written over, and is read: choose another --output")


def _dataset_of(cfg: Any) -> "Images":
    """The images of a config's evaluation.

    Raises:
        UserError: something is wrong with them.
    """
    from omegaconf import OmegaConf

    from ms_detr.report import evaluated_images

    return evaluated_images(partial(OmegaConf.select, cfg))


def _predictions(cfg: Any) -> Path:
    """The folder in which an evaluation of a config has left its detections.

    Raises:
        DataError: there are none.
    """
    from omegaconf import OmegaConf

    from ms_detr.evaluation import CocoEvaluator
    from ms_detr.run_folder import EVAL_ONLY

    kind = OmegaConf.select(cfg, f"{EVALUATOR}._target_")
    if str(getattr(kind, "__name__", kind)).rpartition(".")[2] != CocoEvaluator.__name__:
        raise DataError(f"{EVALUATOR} is {kind}, whose files are not known here")
    cfg.train.output_dir = str(Path(cfg.train.output_dir) / EVAL_ONLY)
    folder = OmegaConf.select(cfg, f"{EVALUATOR}.output_dir")
    if folder is None:
        raise DataError(f"{EVALUATOR}.output_dir=null keeps no detections")
    return Path(folder)


def _study(cfg: Any, data: "Images", place: Path, looking: Looking) -> "Study":
    """Look into the detections of a file or folder."""
    from ms_detr.evaluation.reading import check_detections, read_detections
    from ms_detr.report import study

    options = looking.options(cfg)
    detections = read_detections(place, data.class_of, options.nms_threshold)
    check_detections(detections, data.truth, place)
    return study(data, detections, options)


def _write(found: "Study", folder: Path, name: str) -> None:
    """Write what is found, and tell it in short."""
    from ms_detr.report import write_study

    page, *others = write_study(found, folder, name)
    print(f"\n{summary(found)}")  # the log ends with a table
    print(f"{page}, and beside it {', '.join(file.name for file in others)}")


def write_json(content: Any, place: Path | None) -> None:
    """Write JSON to a file, to the standard output, or nowhere."""
    from ms_detr.files import write_text

    if place is None:
        return
    text = json.dumps(content, indent=1, allow_nan=False)
    if place == STDOUT:
        print(text)
    else:
        write_text(place, text + "\n")


def summary(found: "Study") -> str:
    """Recall, AP by IoU, what NMS changes, the most frequent mistakes and the worst images."""
    from ms_detr.evaluation.table import as_table, percent

    recalls = [name for name in found.results["bbox"] if name.startswith("AR")]
    rows = [[task, *(percent(of[name]) for name in recalls)] for task, of in found.results.items()]
    tables = [as_table(rows, ["task", *recalls])]
    by_iou = found.by_iou()
    rows = [[task, *map(percent, values.values())] for task, values in by_iou.items()]
    tables.append(as_table(rows, ["AP at IoU", *by_iou["bbox"]]))
    rows = [[*names, str(number)] for *names, number in found.confusion.largest(MISTAKES)]
    if rows:
        tables.append(as_table(rows, ["there", "detected", "how often"]))
    rows = [
        [
            picture.name,
            *map(str, _counts(picture)),
            percent(found.aps["bbox"].get(picture.image_id, math.nan)),
        ]
        for picture in found.seen.worst[:IMAGES]
    ]
    if rows:
        tables.append(as_table(rows, ["worst images", "found", "missed", "wrong", "AP"]))
    tables.append(_duplicates(found))
    return "\n\n".join(tables)


def _counts(picture: "Picture") -> tuple[int, int, int]:
    return picture.tally.found, picture.tally.missed, picture.tally.wrong


def _duplicates(found: "Study") -> str:
    """What NMS changes, and what the tables of mistakes and images count, in sentences."""
    from ms_detr.evaluation.table import percent

    before, after = (found.results[task]["AP"] for task in ("bbox", "bbox_nms"))
    seen = found.seen
    return (
        f"AP {percent(before)}, after NMS at {found.options.nms_threshold:g} {percent(after)}. "
        f"Mistakes and images: at score {seen.threshold:.2f}, IoU {found.confusion.iou:.2f}."
    )
