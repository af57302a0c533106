"""Analyse what trained models look at, and what their queries learn: Co-DETR's analyses."""

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ms_detr.errors import ConfigError

from ._arguments import add_run_configs, count, expect_configs, expect_own_names, parts, path, seed

if TYPE_CHECKING:
    from ms_detr.analysis import Sample
    from ms_detr.meta_arch import GeneralizedDETR

WEIGHTS = "train.init_checkpoint"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    shared = argparse.ArgumentParser(add_help=False)
    add_run_configs(shared)
    shared.add_argument("--images", type=count, default=100, help="of each run (default: 100)")
    shared.add_argument("--output", type=path, required=True, help="folder for the pictures")
    shared.add_argument("--json", action="store_true", help="print JSON instead of a table")
    pixels = argparse.ArgumentParser(add_help=False)
    pixels.add_argument(
        "--levels", type=seed, nargs="+", help="from fine (0) to coarse (default: all)"
    )
    pixels.add_argument("--masks", action="store_true", help="objects by masks, not by boxes")
    pictures = argparse.ArgumentParser(add_help=False)
    pictures.add_argument("--pictures", type=count, default=4, help="images drawn (default: 4)")
    add = parts(parser, "what")
    discriminability = add(
        "discriminability",
        "where the encoder's features are strong, in objects and outside",
        shared,
        pixels,
        pictures,
    )
    curve = add(
        "iof-iob",
        "how well features or attention tell objects from background, by thresholds",
        shared,
        pixels,
    )
    curve.add_argument(
        "--what", choices=("encoder", "attention"), default="encoder", dest="scored",
        help="the encoder's features (default), or the decoder's cross-attention",
    )  # fmt: skip
    curve.add_argument(
        "--iob", choices=("below", "above"), default="below",
        help="share of the background below the threshold (default), or above",
    )  # fmt: skip
    curve.add_argument(
        "--top", type=count, help="attention of so many best-scored queries, not of matched ones"
    )
    curve.add_argument(
        "--all-layers", action="store_true", help="attention of all layers, not of the last one"
    )
    conflict = add("conflict", "how far the heads of a model disagree", shared)
    conflict.add_argument(
        "--epsilon", type=float, default=1e-6,
        help="added to every cell of a map whose largest value is 1 (default: 1e-6)",
    )  # fmt: skip
    distribution = add(
        "query-distribution",
        "where the positive queries of groups lie beside the primary ones",
        shared,
        pictures,
    )
    instability = add(
        "instability",
        "how many queries change their object from one checkpoint of a run to the next",
        shared,
    )
    analyses = {
        discriminability: _discriminability,
        curve: _curve,
        conflict: _conflict,
        distribution: _distribution,
        instability: _instability,
    }
    for parser_of, function in analyses.items():
        parser_of.set_defaults(analyse=function)


def run(args: argparse.Namespace) -> int:
    """Analyse, draw, and print a table or JSON."""
    expect_configs(args.runs)
    expect_own_names([words[0] for words in args.runs])
    args.analyse(args)
    return 0


@dataclass(frozen=True)
class Subject:
    """One run: a trained model and its images.

    Attributes:
        records: of the images, evenly spread over the config's test dataset.
        mapper: makes inputs with objects of them.
        dataset: its name.
    """

    name: str
    model: "GeneralizedDETR"
    records: Sequence[dict[str, Any]]
    mapper: Any
    dataset: str

    def samples(self) -> Iterator["Sample"]:
        """The images, one by one."""
        from tqdm import tqdm

        from ms_detr.analysis import Sample

        for record in tqdm(self.records, self.name, disable=None, unit="img", leave=False):
            yield Sample.of(self.model, self.mapper(record))


def _configs(args: argparse.Namespace) -> dict[str, Any]:
    """The runs' configs by name, with masks where they are wanted."""
    from ms_detr.config import load

    further = ["dataloader.masks=true"] if getattr(args, "masks", False) else []
    return {name: load(config, [*further, *overrides]) for name, config, *overrides in args.runs}


def _trained(args: argparse.Namespace) -> dict[str, tuple[Any, str | Path]]:
    """The runs' configs with their weights."""
    found = {name: (cfg, cfg.train.init_checkpoint) for name, cfg in _configs(args).items()}
    for name, (_, weights) in found.items():
        if not weights:
            raise ConfigError(f"--run {name}: give its weights behind the config, {WEIGHTS}=FILE")
    return found


def _subjects(
    args: argparse.Namespace, trained: Mapping[str, tuple[Any, str | Path]]
) -> Iterator[Subject]:
    """The runs by configs and weights, one model at a time in memory; all of the same images."""
    from ms_detr.engine import load_model
    from ms_detr.visualization import choose

    args.output.mkdir(parents=True, exist_ok=True)
    images: list[Any] = []
    for name, (cfg, weights) in trained.items():
        model = load_model(weights, cfg)
        loader = cfg.dataloader.test
        records, mapper = choose(loader, model.num_classes, args.images, objects=True)
        found = [record["image_id"] for record in records]
        images = images or found
        if images != found:
            raise ConfigError(
                f"--run {name}: its images aren't those of '{next(iter(trained))}': give all runs "
                "the same dataloader.test.dataset"
            )
        yield Subject(name, model, records, mapper, loader.dataset.name)


def _show(rows: Sequence[Mapping[str, Any]], notes: str, args: argparse.Namespace) -> None:
    """Print rows as JSON, or as a table, which leaves lists out; and what is open about them."""
    from tabulate import tabulate

    if args.json:
        print(json.dumps({"rows": rows, "note": notes}, indent=1))
        return
    cells = [{key: x for key, x in row.items() if not isinstance(x, list)} for row in rows]
    print(tabulate(cells, headers="keys", tablefmt="pipe", floatfmt=".4f"))
    print(f"\nNote. {notes}")


def _objects(args: argparse.Namespace) -> str:
    """A note on what is an object."""
    kind = "masks" if args.masks else "boxes"
    return (
        f"Objects: the union of their {kind}; crowds are background. All pixels of all images "
        "count alike."
    )


def _discriminability(args: argparse.Namespace) -> None:
    from ms_detr.analysis import Discriminability, Separation
    from ms_detr.visualization import draw_scores

    score = Discriminability(args.levels)
    rows = []
    kept: dict[int, dict[str, Any]] = defaultdict(dict)
    for subject in _subjects(args, _trained(args)):
        separation = Separation()
        for index, sample in enumerate(subject.samples()):
            values = score.score(subject.model, sample)
            separation.add(values, sample.foreground(args.masks))
            if index < args.pictures:
                kept[index][subject.name] = values.numpy()
        inside, outside = separation.means()
        means = {"D in objects": inside, "D outside": outside, "difference": inside - outside}
        rows.append({"run": subject.name, "images": separation.images, **means})
    for index, scores in kept.items():
        record = subject.records[index]
        file = args.output / f"{record['image_id']}_discriminability.png"
        draw_scores(record, subject.dataset, scores, file)
    _show(rows, f"{score.note} {_objects(args)}", args)


def _curve(args: argparse.Namespace) -> None:
    from ms_detr.analysis import Attention, Discriminability, Score, Separation
    from ms_detr.visualization import draw_curves

    score: Score = Discriminability(args.levels)
    if args.scored == "attention":
        score = Attention(args.levels, args.top, args.all_layers)
    elif args.top or args.all_layers:
        raise ConfigError("--top and --all-layers choose attention: add --what attention")
    curves, rows = {}, []
    for subject in _subjects(args, _trained(args)):
        separation = Separation()
        for sample in subject.samples():
            values = score.score(subject.model, sample)
            if values is not None:
                separation.add(values, sample.foreground(args.masks))
        curve = curves[subject.name] = separation.curve(exceeding=args.iob == "above")
        points = {"threshold": curve.thresholds, "IoF": curve.iof, "IoB": curve.iob}
        middle = len(curve.thresholds) // 2
        rows.append(
            {
                "run": subject.name,
                "images": separation.images,
                "area": curve.area,
                "IoF at 0.5": float(curve.iof[middle]),
                "IoB at 0.5": float(curve.iob[middle]),
                **{key: values.tolist() for key, values in points.items()},
            }
        )
    file = args.output / f"iof_iob_{args.scored}.png"
    draw_curves(curves, args.scored, args.iob, file)
    iob = (
        "IoF as Co-DETR's Eq. 8; its IoB isn't printed: here the share of the background "
        f"{args.iob} the threshold. Area: under IoF over IoB."
    )
    _show(rows, f"{iob} {score.note} {_objects(args)}", args)


def _conflict(args: argparse.Namespace) -> None:
    from ms_detr.analysis import Conflict
    from ms_detr.visualization import draw_conflicts

    rows, matrices, note = [], {}, ""
    for subject in _subjects(args, _trained(args)):
        conflict = Conflict(args.epsilon)
        for sample in subject.samples():
            conflict.add(subject.model, sample)
        matrix, scores, note = conflict.matrix(), conflict.scores(), conflict.note
        matrices[subject.name] = (conflict.heads, matrix.numpy())
        for head, distances in zip(conflict.heads, matrix.tolist(), strict=True):
            row = {"run": subject.name, "images": conflict.images, "head": head}
            to = {f"to {x}": d for x, d in zip(conflict.heads, distances, strict=True)}
            rows.append({**row, "S_i": scores.get(head), **to})
    draw_conflicts(matrices, args.output / "conflict.png")
    _show(rows, note, args)


def _distribution(args: argparse.Namespace) -> None:
    from ms_detr.analysis import QueryDistances, query_places
    from ms_detr.visualization import draw_query_places

    rows = []
    kept: dict[int, tuple[int, dict[str, Any]]] = {}
    for subject in _subjects(args, _trained(args)):
        distances = QueryDistances()
        for index, sample in enumerate(subject.samples()):
            places = query_places(subject.model, sample)
            distances.add(places, sample.size)
            if places.count and (index in kept or len(kept) < args.pictures):
                kept.setdefault(index, (sample.largest, {}))[1][subject.name] = places
        for group, (positive, near, far) in distances.means().items():
            row = {"run": subject.name, "images": distances.images, "group": group}
            row |= {"positive an image": positive / distances.images}
            rows.append(row | {"to matched": near, "to unmatched": far, "ratio": near / far})
    for index, (g, found) in kept.items():
        record = subject.records[index]
        draw_query_places(record, g, found, args.output / f"{record['image_id']}_queries.png")
    _show(rows, QueryDistances.note, args)


def _instability(args: argparse.Namespace) -> None:
    from ms_detr.analysis import instability, matches
    from ms_detr.analysis.instability import NOTE
    from ms_detr.engine.averaging import checkpoints_of
    from ms_detr.engine.weights import load_whole
    from ms_detr.visualization import draw_instability

    configs = _configs(args)
    series = {name: checkpoints_of(Path(cfg.train.output_dir)) for name, cfg in configs.items()}
    for name, found in series.items():
        if len(found) < 2:
            raise ConfigError(
                f"--run {name}: {configs[name].train.output_dir} holds {len(found)} checkpoints, "
                "and two are compared: train.keep_every_epochs has a run keep them, and "
                "train.output_dir says where it lies"
            )
    first = {name: (configs[name], next(iter(found.values()))) for name, found in series.items()}
    rows, curves = [], {}
    for subject in _subjects(args, first):
        before, curve = None, []
        for iteration, weights in series[subject.name].items():
            load_whole(subject.model, str(weights))
            after = [matches(subject.model, sample) for sample in subject.samples()]
            if before is not None:
                curve.append((iteration + 1, instability(before, after)))
            before = after
        for iteration, value in curve:
            row = {"run": subject.name, "images": len(after), "iteration": iteration}
            rows.append({**row, "IS": value})
        curves[subject.name] = curve
    draw_instability(curves, args.output / "instability.png")
    _show(rows, NOTE, args)
