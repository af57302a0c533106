"""Models on the same images, with how much chance there is in a difference of theirs."""

from __future__ import annotations

import contextlib
import filecmp
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from ..config import load
from ..errors import CheckpointError, ConfigError, MissingFileError
from ..evaluation import Difference, bootstrap
from ..evaluation.detections import Detections
from ..evaluation.intervals import DRAWS
from ..evaluation.reading import check_detections, read_detections
from ..evaluation.results import without_nan
from ..run_folder import COMPARED, EVAL_ONLY, EVALUATION, PREDICTIONS
from .rebuild import READ, read_config
from .run import Origin, evaluate
from .weights import local_file

if TYPE_CHECKING:
    from ..report import Images

NMS = 1.0  # nothing is taken away


@dataclass(frozen=True)
class ComparedModel:
    """What took part in a comparison.

    Attributes:
        name: its own, made of the parts in which paths differ.
        place: of its detections.
        detections: how many it has.
        images: on how many images it has any.
    """

    name: str
    place: Path
    detections: int
    images: int


@dataclass(frozen=True)
class Comparison:
    """The first of several models beside each other one.

    Attributes:
        models: in the order in which they were given.
        images: how many the dataset has, and every draw.
        draws: of the images.
        seed: of the draws.
        differences: by "bbox" and "segm" (where all have masks), by the names of the other models,
            and by metrics.
    """

    models: tuple[ComparedModel, ...]
    images: int
    draws: int
    seed: int
    differences: dict[str, dict[str, dict[str, Difference]]]

    def numbers(self) -> dict[str, Any]:
        """Everything for JSON; None where there is no value."""
        described = [
            {
                "name": model.name,
                "detections_from": str(model.place),
                "detections": model.detections,
                "images_with_detections": model.images,
            }
            for model in self.models
        ]
        compared = {
            kind: {
                other: {name: _plain(each) for name, each in values.items()}
                for other, values in others.items()
            }
            for kind, others in self.differences.items()
        }
        return {
            "models": described,
            "images": self.images,
            "draws": self.draws,
            "seed": self.seed,
            "compared_with_the_first": compared,
        }


def compare_models(
    models: Sequence[str | os.PathLike[str]],
    config: str | None = None,
    overrides: Sequence[str] = (),
    *,
    folder: str | os.PathLike[str] = COMPARED,
    draws: int = DRAWS,
    seed: int = 0,
) -> Comparison:
    """Compare the first model with each other one on the same draws of the images.

    Args:
        models: two or more: folders of runs that were evaluated, checkpoints, or ``.json`` files of
            COCO's results.
        config: whose test images are compared on; may be missing where one of the models is a run.
        overrides: of the config.
        folder: for the detections of checkpoints, which predict first.
        draws: of the images, see `ms_detr.evaluation.bootstrap`.
        seed: of the draws.

    Raises:
        ConfigError: models were evaluated on different images, or it isn't known on which ones.
        UserError: something is wrong with a file.
    """
    return read_models(models, config, overrides, folder).compare(draws, seed)


Progress = Callable[[], object]  # called after every class of a training


@dataclass(frozen=True)
class ReadTrainings:
    """What models have detected on the same images, each in one training or several.

    Attributes:
        detections: of every training, by the models' names.
        data: the images.
        limit: so many detections of a class in an image count.
    """

    detections: dict[str, list[Detections]]
    data: Images
    limit: int

    @property
    def kinds(self) -> list[str]:
        """What is compared: masks where all have some."""
        masks = [found.masks for found in chain.from_iterable(self.detections.values())]
        everything = [self.data.truth.masks, *masks]
        return ["bbox"] if any(masks is None for masks in everything) else ["bbox", "segm"]

    @property
    def steps(self) -> int:
        """How often a comparison tells of its progress."""
        trainings = sum(map(len, self.detections.values()))
        return len(self.kinds) * trainings * len(self.data.truth.class_names)

    def differences(
        self, draws: int, seed: int, progress: Progress = lambda: None
    ) -> dict[str, dict[str, dict[str, Difference]]]:
        """Of the first model to each other one, by kinds, names and metrics."""
        return {
            kind: bootstrap(
                self.data.truth, self.detections, kind, self.limit, draws, seed, progress
            )
            for kind in self.kinds
        }

    def above_the_first(
        self, draws: int, seed: int = 0, progress: Progress = lambda: None
    ) -> dict[str, dict[str, Difference]]:
        """See `compare_trainings`."""
        return {
            kind: {name: metrics["AP"].turned() for name, metrics in others.items()}
            for kind, others in self.differences(draws, seed, progress).items()
        }


@dataclass(frozen=True)
class ReadModels:
    """What several models have detected on the same images.

    Attributes:
        places: of the detections, by name.
        found: there, of a training each.
    """

    places: dict[str, Path]
    found: ReadTrainings

    @property
    def steps(self) -> int:
        """How often `compare` tells of its progress."""
        return self.found.steps

    def compare(
        self, draws: int = DRAWS, seed: int = 0, progress: Progress = lambda: None
    ) -> Comparison:
        """See `compare_models`."""
        models = tuple(
            ComparedModel(name, self.places[name], len(each.scores), len({*each.images.tolist()}))
            for name, (each,) in self.found.detections.items()
        )
        differences = self.found.differences(draws, seed, progress)
        return Comparison(models, len(self.found.data.truth.sizes), draws, seed, differences)


def compare_trainings(
    trainings: Mapping[str, Sequence[Path]], draws: int = DRAWS, seed: int = 0
) -> dict[str, dict[str, Difference]]:
    """Compare each of several models with the first one, by all their trainings.

    Args:
        trainings: folders of evaluated runs, at least one, by the models' names.
        draws: of the images, see `ms_detr.evaluation.bootstrap`.
        seed: of the draws.

    Returns:
        AP of boxes, and of masks where all have some, by "bbox" and "segm" and by the names of the
        other models; the differences are theirs to the first.

    Raises:
        ConfigError: runs were evaluated on different images.
        UserError: something is wrong with a file.
    """
    return read_trainings(trainings).above_the_first(draws, seed)


def read_trainings(trainings: Mapping[str, Sequence[Path]]) -> ReadTrainings:
    """Read the detections of evaluated runs.

    Args, Raises: see `compare_trainings`.
    """
    runs = [run for folders in trainings.values() for run in folders]
    data, limit = _dataset(None, runs)
    for run in runs:
        _expect_same(run, data)
        if (other := _limit(run)) != limit:
            raise ConfigError(
                f"{run} was evaluated on the best {other} detections of a class in an image, "
                f"{runs[0]} on {limit}: AP doesn't compare"
            )
    found = {
        name: [_read(_of_run(run), data) for run in folders] for name, folders in trainings.items()
    }
    return ReadTrainings(found, data, limit)


def read_models(
    models: Sequence[str | os.PathLike[str]],
    config: str | None,
    overrides: Sequence[str],
    folder: str | os.PathLike[str],
) -> ReadModels:
    """Read the detections of all models; what is a checkpoint predicts them first.

    Args, Raises: see `compare_models`.
    """
    if len(models) < 2:
        raise ConfigError(f"two models or more are compared, got {len(models)}")
    paths = [os.fspath(model) for model in models]
    names = distinct(short_names(paths))
    asked = None if config is None else (config, tuple(overrides))
    # What is wrong shows before anything is predicted.
    known = {name: _known_detections(path, asked) for name, path in zip(names, paths, strict=True)}
    runs = [Path(path) for path in paths if Path(path).is_dir()]
    data, limit = _dataset(asked, runs)
    for run in runs:
        _expect_same(run, data)
    read = {name: _read(place, data) for name, place in known.items() if place is not None}
    places, detections = {}, {}
    for name, path in zip(names, paths, strict=True):
        places[name] = known[name] or _predicted(asked, path, Path(folder, name))
        detections[name] = read[name] if name in read else _read(places[name], data)
    alone = {name: [found] for name, found in detections.items()}
    return ReadModels(places, ReadTrainings(alone, data, limit))


def _read(place: Path, data: Images) -> Detections:
    found = read_detections(place, data.class_of, NMS)
    check_detections(found, data.truth, place)
    return found


Asked = tuple[str, tuple[str, ...]] | None  # a config and its overrides


def _known_detections(model: str, asked: Asked) -> Path | None:
    """Where a model's detections are; None of a checkpoint, which has to predict them."""
    if model.endswith(".json"):
        return Path(model)
    if Path(model).is_dir():
        return _of_run(Path(model))
    if asked is None:
        raise ConfigError(
            f"{model} is a checkpoint: name the config on whose images its model is to predict"
        )
    return None


def _of_run(folder: Path) -> Path:
    """The detections of a run's last evaluation."""
    places = [folder / EVALUATION, folder / EVAL_ONLY / EVALUATION, folder]
    for place in places:
        if (place / PREDICTIONS).is_file():
            return place / PREDICTIONS
    raise MissingFileError(
        f"{folder} holds no {EVALUATION}/{PREDICTIONS}: give the folder of a run that was "
        "evaluated, a checkpoint or a .json file"
    )


def _predicted(asked: Asked, weights: str, folder: Path) -> Path:
    """Let a checkpoint's model predict on the config's images; the model is the checkpoint's."""
    assert asked is not None
    cfg = load(*asked)
    path = local_file(weights)
    with contextlib.suppress(CheckpointError):  # which keeps none: the config's model
        kept = read_config(path)
        for key in READ:
            OmegaConf.update(cfg, key, OmegaConf.select(kept, key), merge=False)
        if "masks" in cfg.dataloader:
            cfg.dataloader.masks = kept.model.get("masks") is not None
    cfg.train.output_dir = str(folder)
    cfg.dataloader.evaluator.output_dir = str(folder)
    evaluate(cfg, path, Origin(*asked))
    return folder / PREDICTIONS


def _dataset(asked: Asked, runs: Sequence[Path]) -> tuple[Images, int]:
    """The images that are compared on, and how many detections of a class count in each."""
    from ..report import detection_limit, evaluated_images  # draws: imported when it is needed
    from ..report.run import read_run

    setting: Callable[[str], Any]
    if asked is not None:
        setting = partial(OmegaConf.select, load(*asked))
    elif runs:
        setting = read_run(runs[0]).setting
    else:
        raise ConfigError("which images? Name the config of their dataset")
    return evaluated_images(setting), detection_limit(setting)


def _limit(run: Path) -> int:
    """How many detections of a class in an image a run's evaluation scores."""
    from ..report import detection_limit
    from ..report.run import read_run

    return detection_limit(read_run(run).setting)


def _expect_same(run: Path, data: Images) -> None:
    """Raise ConfigError where a run was evaluated on other annotations."""
    from ..report.dataset import KEY
    from ..report.run import read_run

    ours = os.fspath(data.metadata.json_file)
    theirs = read_run(run).setting(f"{KEY}.annotations")
    if theirs is None or not os.path.isfile(theirs):
        return  # gone or Detectron2's own: images and classes are checked all the same
    if not (os.path.samefile(ours, theirs) or filecmp.cmp(ours, theirs, shallow=False)):
        raise ConfigError(
            f"{run} was evaluated on {theirs}, the others on {ours}: models are compared on the "
            "same images"
        )


def short_names(given: Sequence[str]) -> list[str]:
    """Names of paths: the parts in which they differ.

    Parts that all begin or end with are left out, as long as each has a part left.
    """
    paths = [Path(os.path.abspath(text)) for text in given]
    parts = [[*path.parts[:-1], _plain_name(path)] for path in paths]
    for end in (0, -1):
        while min(map(len, parts)) > 1 and len({each[end] for each in parts}) == 1:
            for each in parts:
                del each[end]
    return ["_".join(part.strip("/\\") for part in each) or "model" for each in parts]


def distinct(names: Sequence[str]) -> list[str]:
    """Return names with numbers behind those that are taken."""
    known: list[str] = []
    for name in names:
        number, unique = 1, name
        while unique in known:
            number += 1
            unique = f"{name} ({number})"
        known.append(unique)
    return known


def _plain_name(path: Path) -> str:
    return path.stem if path.suffix in (".json", ".pth", ".safetensors") else path.name


def _plain(each: Difference) -> dict[str, Any]:
    return without_nan({**asdict(each), "difference": each.difference})
