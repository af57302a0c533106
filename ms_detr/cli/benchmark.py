"""Measure models, training, steps, the operator, matching and losses, groups, data, evaluation."""

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any

from ms_detr.errors import ConfigError

from ._arguments import add_run_configs, count, expect_configs, parts, path, seed
from ._tasks import add_process_arguments

LOADED = "ms_detr/ms_detr_r50_300q_12ep.py"  # COCO's usual augmentations


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    json_flag = argparse.ArgumentParser(add_help=False)
    json_flag.add_argument("--json", action="store_true", help="print JSON instead of a table")
    shared = argparse.ArgumentParser(add_help=False, parents=[json_flag])
    shared.add_argument("--threads", type=count, default=None, help="CPU threads")
    rounds = argparse.ArgumentParser(add_help=False)
    rounds.add_argument("--rounds", type=count, default=9, help="interleaved rounds (default: 9)")
    device = argparse.ArgumentParser(add_help=False)
    device.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="that measures (default: cpu)"
    )
    add = parts(parser, "what")
    step = add("step", "a training step and a prediction, data loading left out", rounds, shared)
    step.add_argument("--config-file", nargs="+", required=True, dest="configs", help="one or more")
    step.add_argument("--steps", type=count, default=5, help="steps a round (default: 5)")
    step.add_argument("--opts", nargs="*", default=[], help="overrides, key=value, for all configs")
    model = add(
        "model",
        "a model at inference: parameters, FLOPs, latency, throughput, memory",
        rounds,
        shared,
        device,
    )
    model.add_argument(
        "--config-file", nargs="+", required=True, dest="configs", help="one or more"
    )
    model.add_argument(
        "--size", type=count, nargs=2, metavar=("HEIGHT", "WIDTH"),
        help="of the images, in pixels (default: what each config makes of 1200 x 2000)",
    )  # fmt: skip
    model.add_argument("--batch", type=count, default=1, help="images at a time (default: 1)")
    model.add_argument(
        "--count-only", action="store_false", dest="timing", help="no latency, no memory"
    )
    model.add_argument(
        "--opts", nargs="*", default=[], help="overrides, key=value, for all configs"
    )
    train = add(
        "train",
        "where the time of training goes, stage by stage, by the real trainer",
        rounds,
        shared,
    )
    add_run_configs(train)
    train.add_argument("--steps", type=count, default=5, help="steps a round (default: 5)")
    train.add_argument(
        "--size", type=count, nargs=2, metavar=("HEIGHT", "WIDTH"),
        help="make images of so many pixels instead of reading the config's",
    )  # fmt: skip
    train.add_argument("--objects", type=count, default=7, help="of a made image (default: 7)")
    add_process_arguments(train)
    op = add(
        "op",
        "the compiled operator against pure torch and the original scheme",
        rounds,
        shared,
        device,
    )
    op.add_argument("--case", nargs="+", dest="cases", help="such as encoder, 'decoder 900'")
    op.add_argument("--entry", nargs="+", dest="entries", help="such as operator, fused")
    criterion = add(
        "criterion", "matching and losses against the usual loop", rounds, shared, device
    )
    criterion.add_argument(
        "--batch", type=count, nargs="+", default=[2, 8], help="images (default: 2 8)"
    )
    criterion.add_argument(
        "--queries",
        type=count,
        nargs="+",
        default=[300, 900],
        help="of an image (default: 300 900)",
    )
    criterion.add_argument(
        "--objects", type=count, nargs="+", default=[7, 30], help="of an image (default: 7 30)"
    )
    criterion.add_argument("--tokens", type=count, help="of the encoder term (default: as queries)")
    masks = add("masks", "supervision of masks, and the memory it takes", shared, device)
    masks.add_argument("--queries", type=count, default=900, help="of an image (default: 900)")
    masks.add_argument("--objects", type=count, default=100, help="of an image (default: 100)")
    masks.add_argument(
        "--size", type=count, default=1024, help="pixels of the image's side (default: 1024)"
    )
    groups = add(
        "groups", "self-attention by blocks against one dense mask", rounds, shared, device
    )
    groups.add_argument("--batch", type=count, default=2, help="images (default: 2)")
    aligned = add(
        "aligned",
        "SAM-DETR's attention of a layer against its naive form, and the memory both take",
        rounds,
        shared,
        device,
    )
    aligned.add_argument("--batch", type=count, default=2, help="images (default: 2)")
    aligned.add_argument("--queries", type=count, default=300, help="of an image (default: 300)")
    images = add("images", "the look at all image files before a training", shared)
    images.add_argument("--files", type=count, default=2000, help="of each kind (default: 2000)")
    export = add(
        "export",
        "a model's exported files against PyTorch, on one image size, and their differences",
        rounds,
        shared,
    )
    export.add_argument("--weights", required=True, metavar="FILE", help="of the model")
    export.add_argument("--batch", type=count, default=1, help="images (default: 1)")
    export.add_argument(
        "--size",
        type=count,
        nargs=2,
        default=(800, 1216),
        metavar=("HEIGHT", "WIDTH"),
        help="of the images, in pixels (default: 800 1216)",
    )
    loading = add(
        "loading", "images a second of a config's training loader, by its processes", json_flag
    )
    loading.add_argument(
        "--config-file", default=LOADED, metavar="CONFIG", help=f"default: {LOADED}"
    )
    loading.add_argument(
        "--workers",
        type=seed,
        nargs="+",
        default=[0, 1, 2],
        help="numbers of processes (default: 0 1 2)",
    )
    loading.add_argument("--images", type=count, default=200, help="a turn (default: 200)")
    loading.add_argument("--rounds", type=count, default=3, help="interleaved (default: 3)")
    loading.add_argument("--opts", nargs="*", default=[], help="overrides, key=value")
    evaluation = add(
        "evaluation", "evaluation against Detectron2's, on random detections", json_flag
    )
    evaluation.add_argument(
        "--images", type=count, default=5000, help="of the dataset (default: 5000)"
    )
    evaluation.add_argument(
        "--detections", type=count, default=100, help="of an image (default: 100)"
    )
    annotations = add(
        "annotations",
        "starts on a large generated annotation file: time, memory, loader processes",
        json_flag,
    )
    annotations.add_argument(
        "--images", type=count, default=200_000, help="of the file (default: 200000)"
    )
    annotations.add_argument(
        "--workers",
        type=seed,
        nargs="+",
        default=[0, 2, 4],
        help="numbers of processes (default: 0 2 4)",
    )
    annotations.add_argument("--folder", type=path, help="where a folder is made, and removed")
    measures = {
        step: _step,
        model: _model,
        train: _train,
        op: _operator,
        criterion: _criterion,
        masks: _masks,
        groups: _groups,
        aligned: _aligned,
        images: _images,
        export: _export,
        loading: _loading,
        evaluation: _evaluation,
        annotations: _annotations,
    }
    for parser_of, function in measures.items():
        parser_of.set_defaults(measure=function)


def run(args: argparse.Namespace) -> int:
    """Measure, and print a table or JSON."""
    from ms_detr.engine.out_of_memory import advised

    with advised("measure something smaller, such as another --size or --batch"):
        args.measure(args)
    return 0


def _criterion(args: argparse.Namespace) -> None:
    from ms_detr.benchmarks.criterion import compare_criterion

    rows = compare_criterion(
        args.device, args.batch, args.queries, args.objects, args.tokens, args.rounds, args.threads
    )
    _show(rows, args, ("", "", "", "", ".2f", ".2f", ".2f", ".0e", "", ""))


def _groups(args: argparse.Namespace) -> None:
    from ms_detr.benchmarks.groups import compare_groups

    rows = compare_groups(args.device, args.batch, args.rounds, args.threads)
    _show(rows, args, ("", "", ".1f", ".1f", ".2f", ".0f", ".0f", ".0f", ".0f", ".0e"))


def _aligned(args: argparse.Namespace) -> None:
    from ms_detr.benchmarks.aligned import compare_aligned

    rows = compare_aligned(args.device, args.batch, args.queries, args.rounds, args.threads)
    _show(rows, args, ("", "", ".1f", ".1f", ".2f", ".0f", ".0f", ".0f", ".0f", ".0e"))


def _step(args: argparse.Namespace) -> None:
    from ms_detr.benchmarks.step import compare_steps

    rows = compare_steps(args.configs, args.opts, args.rounds, args.steps, args.threads)
    _show(rows, args, ("", "", ".3f", ".3f", ".0f"))


def _model(args: argparse.Namespace) -> None:
    from ms_detr.benchmarks.model import measure_models

    size = (args.size[0], args.size[1]) if args.size else None
    rows = measure_models(
        args.configs, args.opts, size, args.batch, args.rounds, args.device, args.threads,
        args.timing,
    )  # fmt: skip
    _show(rows, args, ("", "", ".2f", ".2f", ".1f", ".1f", "", ".1f", ".3f", ".2f", ".0f"))


def _train(args: argparse.Namespace) -> None:
    from functools import partial

    from ms_detr.benchmarks.training import MadeImages, TrainingRun
    from ms_detr.config import load
    from ms_detr.engine import launch

    expect_configs(args.runs)
    runs = [TrainingRun(name, config, overrides) for name, config, *overrides in args.runs]
    devices = {load(run.config, run.overrides).train.device for run in runs}
    if len(devices) > 1:
        raise ConfigError(f"runs are compared on one device, these have {sorted(devices)}")
    height, width = args.size or (0, 0)
    made = MadeImages(height, width, args.objects) if args.size else None
    launch(
        partial(_show_training, args, runs, made),
        num_processes=args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        device=devices.pop(),
    )


def _show_training(args: argparse.Namespace, runs: Sequence[Any], made: Any) -> None:
    """What every process does; the main one has rows to show."""
    from ms_detr.benchmarks.training import compare_training

    if rows := compare_training(runs, made, args.rounds, args.steps, args.threads):
        formats = {"run": "", "images/s": ".2f", "gradients MB": ".1f", "memory MB": ".0f"}
        _show(rows, args, [formats.get(key, ".3f") for key in rows[0]])


def _masks(args: argparse.Namespace) -> None:
    from ms_detr.benchmarks.masks import measure_masks

    rows = measure_masks(args.device, args.queries, args.objects, args.size, threads=args.threads)
    _show(rows, args, ("", "", ".2f", ".0f"))


def _images(args: argparse.Namespace) -> None:
    from ms_detr.benchmarks.images import measure_images

    _show(measure_images(args.files, args.threads), args, ".1f", title="per 100,000 files:\n")


def _export(args: argparse.Namespace) -> None:
    from ms_detr.benchmarks.export import compare_exported

    height, width = args.size
    rows = compare_exported(args.weights, args.batch, (height, width), args.rounds, args.threads)
    _show(rows, args, ("", ".1f", ".2f", ".0e", ".1f"))


def _loading(args: argparse.Namespace) -> None:
    from ms_detr.benchmarks.loading import measure_loading

    rows = measure_loading(args.config_file, args.opts, args.workers, args.images, args.rounds)
    _show(rows, args, ("", ".1f", ".2f", ".1f", ".1f"))


def _evaluation(args: argparse.Namespace) -> None:
    from ms_detr.benchmarks.evaluation import compare_evaluators

    rows = compare_evaluators(args.images, args.detections)
    _show(rows, args, ("", ".1f", ".2f", ".0f", ".4f"))


def _annotations(args: argparse.Namespace) -> None:
    from ms_detr.benchmarks.annotations import measure_annotations

    rows = measure_annotations(args.images, workers=args.workers, folder=args.folder)
    _show(rows, args, ("", "", ".1f", ".2f", ".0f", ".0f", ".0f"))


def _show(
    rows: Sequence[Mapping[str, Any]],
    args: argparse.Namespace,
    formats: str | Sequence[str],
    title: str = "",
) -> None:
    """Print rows as JSON, or under their title as a table with a number format a column."""
    from tabulate import tabulate

    if args.json:
        print(json.dumps(rows, indent=1))
    else:
        print(title + tabulate(rows, headers="keys", tablefmt="pipe", floatfmt=formats))


def _operator(args: argparse.Namespace) -> None:
    from ms_detr.benchmarks import operator

    known = operator.entries_for(args.device)
    for asked, names in ((args.cases, operator.CASES), (args.entries, known)):
        if unknown := set(asked or ()) - set(names):
            raise ConfigError(f"no {sorted(unknown)}; choose from {list(names)}")
    result = operator.compare_operator(
        args.device, args.cases, args.entries, args.rounds, args.threads
    )
    if args.json:
        print(json.dumps(result, indent=1))
        return
    machine = [
        f"{name}: {value:.0f}" if isinstance(value, float) else f"{name}: {value}"
        for name, value in result["machine"].items()
    ]
    print(", ".join(machine))
    for entry, reason in result["left out"].items():
        print(f"left out: {entry}: {reason}")
    # Columns that nothing stands in are left out.
    columns = [key for key in result["rows"][0] if any(x[key] is not None for x in result["rows"])]
    formats = {"ratio": ".1f", "of the limit": ".0%", "difference": ".0e", "target": ".1f"}
    _show(
        [{key: row[key] for key in columns} for row in result["rows"]],
        args,
        [formats.get(key, ".0f" if key.endswith("MB") else ".2f") for key in columns],
    )
