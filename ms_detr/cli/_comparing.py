"""`ms-detr evaluate --compare`: models on the same images, with how much chance there is in it."""

import argparse
import contextlib
import filecmp
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ms_detr.errors import CheckpointError, ConfigError, MissingFileError

from ._arguments import expect_folder
from ._evaluating import dataset_of, expect_others, limit_of, stdout_for_json, write_json

if TYPE_CHECKING:
    from ms_detr.evaluation.bootstrap import Difference
    from ms_detr.evaluation.detections import Detections
    from ms_detr.report import Images

COMPARED = Path("output/compared")
NUMBERS, PICTURE = "comparison.json", "differences.png"
CLASSES = 12  # that a table has, those of the largest differences
NMS = 1.0  # nothing is taken away
Found = dict[str, dict[str, dict[str, "Difference"]]]  # by kind, model and metric


def compare(args: argparse.Namespace) -> int:
    """Compare the first model with each other one; print tables, write numbers and a picture."""
    from ms_detr.visualization.evaluation import draw_differences

    folder = args.output or COMPARED
    expect_folder(folder)
    given = [Path(name) for name in args.compare]
    expect_others([folder / NUMBERS, folder / PICTURE, args.json], given)
    with stdout_for_json(args.json):
        models = _models(args, folder)
        data, most = _dataset(args, models)
        _expect_same(models, data)
        detections = _read(models, data)
        found = _bootstrap(args, data, detections, most)
        content = _numbers(args, models, data, detections, found)
        write_json(content, folder / NUMBERS)
        panels = {
            f"{kind}: {first} - {other}": overall(values)
            for first in [next(iter(detections))]
            for kind, others in found.items()
            for other, values in others.items()
        }
        picture = draw_differences(panels, folder / PICTURE)
        print(_text(args, data, detections, found))
        print(f"{folder / NUMBERS}, {picture}")
    write_json(content, args.json)
    return 0


@dataclass(frozen=True)
class Model:
    """What is compared.

    Attributes:
        name: its own.
        place: of its detections.
        run: the folder of its run, if it is one.
    """

    name: str
    place: Path
    run: Path | None = None


def _models(args: argparse.Namespace, folder: Path) -> list[Model]:
    """Find the detections of all that is compared; what is a checkpoint predicts them first."""
    if len(args.compare) < 2:
        raise ConfigError("--compare takes two models or more")
    models = []
    for given, name in zip(args.compare, distinct(short_names(args.compare)), strict=True):
        if given.endswith(".json"):
            models.append(Model(name, Path(given)))
        elif Path(given).is_dir():
            models.append(Model(name, _of_run(Path(given)), Path(given)))
        else:
            models.append(Model(name, _predicted(args, given, folder / name)))
    return models


def _of_run(folder: Path) -> Path:
    """The detections of a run's last evaluation."""
    from ms_detr.run_folder import EVAL_ONLY, EVALUATION, PREDICTIONS

    places = [folder / EVALUATION, folder / EVAL_ONLY / EVALUATION, folder]
    for place in places:
        if (place / PREDICTIONS).is_file():
            return place / PREDICTIONS
    raise MissingFileError(
        f"{folder} holds no {EVALUATION}/{PREDICTIONS}: give the folder of a run that was "
        "evaluated, a checkpoint or a .json file"
    )


def _predicted(args: argparse.Namespace, weights: str, folder: Path) -> Path:
    """Let a checkpoint's model predict on the config's images; the model is the checkpoint's."""
    from omegaconf import OmegaConf

    from ms_detr.config import load
    from ms_detr.engine import Origin, evaluate
    from ms_detr.engine.rebuild import READ, read_config
    from ms_detr.engine.weights import local_file
    from ms_detr.run_folder import PREDICTIONS

    if args.config is None:
        raise ConfigError(
            f"{weights} is a checkpoint: name the CONFIG whose images its model is to predict on, "
            "ms-detr evaluate CONFIG --compare ..."
        )
    cfg = load(args.config, _overrides(args))
    path = local_file(weights)
    with contextlib.suppress(CheckpointError):  # which keeps none: the config's model
        kept = read_config(path)
        for key in READ:
            OmegaConf.update(cfg, key, OmegaConf.select(kept, key), merge=False)
        if "masks" in cfg.dataloader:
            cfg.dataloader.masks = kept.model.get("masks") is not None
    cfg.train.output_dir = str(folder)
    cfg.dataloader.evaluator.output_dir = str(folder)
    evaluate(cfg, path, Origin(args.config, _overrides(args)))
    return folder / PREDICTIONS


def _overrides(args: argparse.Namespace) -> tuple[str, ...]:
    """What stands behind CONFIG; without weights the first override stands in their place."""
    return tuple(word for word in (args.weights, *args.opts) if word is not None)


def _dataset(args: argparse.Namespace, models: Sequence[Model]) -> "tuple[Images, int]":
    """The images that are compared on, and how many detections of a class count in each."""
    from ms_detr.config import load
    from ms_detr.evaluation import MAX_DETECTIONS
    from ms_detr.report import evaluated_images
    from ms_detr.report.run import read_run

    if args.config is not None:
        cfg = load(args.config, _overrides(args))
        return dataset_of(cfg), limit_of(cfg)
    folders = [model.run for model in models if model.run is not None]
    if not folders:
        raise ConfigError(
            "which images? Name the CONFIG of their dataset: ms-detr evaluate CONFIG --compare ..."
        )
    setting = read_run(folders[0]).setting
    return evaluated_images(setting), setting(
        "dataloader.evaluator.max_detections"
    ) or MAX_DETECTIONS


def _expect_same(models: Sequence[Model], data: "Images") -> None:
    """Raise ConfigError where a run was evaluated on other annotations."""
    from ms_detr.report.dataset import KEY
    from ms_detr.report.run import read_run

    ours = os.fspath(data.metadata.json_file)
    for model in models:
        if model.run is None:
            continue
        theirs = read_run(model.run).setting(f"{KEY}.annotations")
        if theirs is None or not os.path.isfile(theirs):
            continue  # gone or Detectron2's own: images and classes are checked all the same
        if not (os.path.samefile(ours, theirs) or filecmp.cmp(ours, theirs, shallow=False)):
            raise ConfigError(
                f"{model.run} was evaluated on {theirs}, the others on {ours}: models are compared "
                "on the same images"
            )


def _read(models: Sequence[Model], data: "Images") -> "dict[str, Detections]":
    """All detections by the models' names."""
    from ms_detr.evaluation.reading import check_detections, read_detections

    detections = {}
    for model in models:
        found = read_detections(model.place, data.class_of, NMS)
        check_detections(found, data.truth, model.place)
        detections[model.name] = found
    return detections


def _bootstrap(
    args: argparse.Namespace, data: "Images", detections: "dict[str, Detections]", most: int
) -> Found:
    from ms_detr.evaluation.bootstrap import bootstrap

    from ._progress import Counter

    everything = [data.truth.masks, *(found.masks for found in detections.values())]
    kinds = ["bbox"] if any(masks is None for masks in everything) else ["bbox", "segm"]
    total = len(kinds) * len(detections) * len(data.truth.class_names)
    with Counter(total, "classes") as counter:
        return {
            kind: bootstrap(
                data.truth, detections, kind, most, args.draws, args.seed, counter.advance
            )
            for kind in kinds
        }


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


def overall(values: "Mapping[str, Difference]") -> "dict[str, Difference]":
    """The metrics of all classes, and of the classes with the largest differences."""
    from ms_detr.evaluation.table import CLASS_PREFIX

    classes = [
        name
        for name, each in values.items()
        if name.startswith(CLASS_PREFIX) and each.difference == each.difference
    ]
    classes.sort(key=lambda name: -abs(values[name].difference))
    chosen = {*classes[:CLASSES]}
    return {
        name: each
        for name, each in values.items()
        if name in chosen or not name.startswith(CLASS_PREFIX)
    }


def _text(
    args: argparse.Namespace,
    data: "Images",
    detections: "Mapping[str, Detections]",
    found: Found,
) -> str:
    """A table a pair and kind, with what was drawn below."""
    from ms_detr.evaluation.table import as_table, percent

    first = next(iter(detections))
    tables = []
    for kind, others in found.items():
        for other, values in others.items():
            rows = [
                [
                    name,
                    *(percent(x) for x in (each.first, each.second, each.difference)),
                    f"{percent(each.low)} to {percent(each.high)}" if each.draws else "none",
                    f"{each.better:.3f}" if each.draws else "none",
                ]
                for name, each in overall(values).items()
            ]
            headers = [kind, first, other, "difference", "95% interval", f"p({first} > {other})"]
            tables.append(as_table(rows, headers))
    images = len(data.truth.sizes)
    counts = [
        f"{name}: {len(each.scores)} detections on {_shown(each)} of {images} images"
        for name, each in detections.items()
    ]
    tables.append("\n".join(counts))
    tables.append(f"{args.draws} draws of {images} images, seed {args.seed}")
    return "\n\n".join(tables)


def _numbers(
    args: argparse.Namespace,
    models: Sequence[Model],
    data: "Images",
    detections: "Mapping[str, Detections]",
    found: Found,
) -> dict[str, Any]:
    """Everything for JSON; None where there is no value."""
    described = [
        {
            "name": name,
            "detections_from": str(model.place),
            "detections": len(each.scores),
            "images_with_detections": _shown(each),
        }
        for model, (name, each) in zip(models, detections.items(), strict=True)
    ]
    compared = {
        kind: {
            other: {name: _plain(each) for name, each in values.items()}
            for other, values in others.items()
        }
        for kind, others in found.items()
    }
    return {
        "models": described,
        "images": len(data.truth.sizes),
        "draws": args.draws,
        "seed": args.seed,
        "compared_with_the_first": compared,
    }


def _shown(found: "Detections") -> int:
    """On how many images there are any."""
    return len(set(found.images.tolist()))


def _plain(each: "Difference") -> dict[str, Any]:
    from ms_detr.evaluation.results import without_nan

    return without_nan({**asdict(each), "difference": each.difference})
