"""Draw predictions, candidates, assignments, what queries look at, or losses of runs."""

import argparse
from pathlib import Path
from typing import Any

from ._arguments import count, expect_not, expect_own_names, parts, path, share


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    add = parts(parser, "view")
    predictions = add("predictions", "predictions beside annotations")
    _one_model(predictions, images=16)
    predictions.add_argument(
        "--threshold", type=share, default=0.3, help="least score that is drawn (default: 0.3)"
    )
    assignments = add("assignments", "which queries learn which objects")
    _one_model(assignments, images=4)
    sampling = add("sampling", "where a query looks, layer by layer")
    _one_model(sampling, images=4)
    sampling.add_argument("--query", type=int, help="its number (default: the best-scored one)")
    gaussians = add("gaussians", "where the heads of an SMCA query are led to")
    _one_model(gaussians, images=4)
    gaussians.add_argument("--query", type=int, help="its number (default: the best-scored one)")
    gaussians.add_argument(
        "--layer", type=int, default=-1, help="of the decoder, -1 for the last (default: the last)"
    )
    salient = add(
        "salient-points", "the points of SAM-DETR's queries, and what each head attends to"
    )
    _one_model(salient, images=4)
    salient.add_argument(
        "--query",
        action="append",
        type=int,
        default=[],
        dest="queries",
        help="a number; once for every row (default: the best-scored one)",
    )
    salient.add_argument(
        "--layer", type=int, default=-1, help="of the decoder, -1 for the last (default: the last)"
    )
    candidates = add("candidates", "the best-scored boxes of several models")
    candidates.add_argument(
        "--run",
        action="append",
        nargs=3,
        required=True,
        metavar=("NAME", "CONFIG", "WEIGHTS"),
        dest="runs",
        help="once for every panel",
    )
    candidates.add_argument("--output", required=True, type=path, help="folder for the pictures")
    candidates.add_argument("--count", type=count, default=8, help="images (default: 8)")
    candidates.add_argument("--top", type=count, default=20, help="boxes (default: 20)")
    candidates.add_argument("opts", nargs="*", help="config overrides for all, key=value")
    losses = add("losses", "one-to-one losses of several runs over time")
    losses.add_argument(
        "--run",
        action="append",
        nargs=2,
        required=True,
        metavar=("NAME", "FOLDER"),
        dest="runs",
        help="a run's train.output_dir; once for every curve",
    )
    losses.add_argument("--output", required=True, type=path, help="the picture, a .png file")
    drawn = {
        predictions: _predictions,
        assignments: _assignments,
        sampling: _sampling,
        gaussians: _gaussians,
        salient: _salient_points,
        candidates: _candidates,
        losses: _losses,
    }
    for view, draw in drawn.items():
        view.set_defaults(draw=draw)


def _one_model(parser: argparse.ArgumentParser, images: int) -> None:
    parser.add_argument("--config-file", required=True, help="config the model was trained with")
    parser.add_argument("--weights", required=True, type=path, help="checkpoint, a .pth file")
    parser.add_argument("--output", required=True, type=path, help="folder for the pictures")
    parser.add_argument("--count", type=count, default=images, help=f"images (default: {images})")
    parser.add_argument("opts", nargs="*", help="config overrides, key=value")


def run(args: argparse.Namespace) -> int:
    """Draw, and say where."""
    expect_own_names([name for name, *_ in getattr(args, "runs", ())])
    expect_not(getattr(args, "opts", ()), {"train.init_checkpoint": "the weights' argument"})
    args.draw(args)
    return 0


def _load(args: argparse.Namespace) -> tuple[Any, Any]:
    """The model, and the config of its test images."""
    from ms_detr.config import load
    from ms_detr.engine import load_model

    cfg = load(args.config_file, args.opts)
    return load_model(args.weights, cfg), cfg.dataloader.test


def _predictions(args: argparse.Namespace) -> None:
    from ms_detr.visualization import draw_predictions

    files = draw_predictions(*_load(args), args.output, count=args.count, threshold=args.threshold)
    print(f"{len(files) - 1} images drawn; all of them in {files[0]}")


def _assignments(args: argparse.Namespace) -> None:
    from ms_detr.visualization import draw_assignments

    _tell(draw_assignments(*_load(args), args.output, count=args.count))


def _sampling(args: argparse.Namespace) -> None:
    from ms_detr.visualization import draw_sampling

    _tell(draw_sampling(*_load(args), args.output, count=args.count, query=args.query))


def _gaussians(args: argparse.Namespace) -> None:
    from ms_detr.visualization import draw_gaussians

    chosen = {"count": args.count, "query": args.query, "layer": args.layer}
    _tell(draw_gaussians(*_load(args), args.output, **chosen))


def _salient_points(args: argparse.Namespace) -> None:
    from ms_detr.visualization import draw_salient_points

    chosen = {"count": args.count, "queries": args.queries, "layer": args.layer}
    _tell(draw_salient_points(*_load(args), args.output, **chosen))


def _candidates(args: argparse.Namespace) -> None:
    from ms_detr.config import load
    from ms_detr.engine import load_model
    from ms_detr.visualization import draw_candidates

    configs = {name: load(config, args.opts) for name, config, _ in args.runs}
    models = {name: load_model(weights, configs[name]) for name, _, weights in args.runs}
    loader = next(iter(configs.values())).dataloader.test
    _tell(draw_candidates(models, loader, args.output, count=args.count, top=args.top))


def _losses(args: argparse.Namespace) -> None:
    from ms_detr.paths import expand
    from ms_detr.visualization import draw_losses

    folders = {name: Path(expand(folder)) for name, folder in args.runs}
    print(f"drawn: {draw_losses(folders, args.output)}")


def _tell(files: list[Path]) -> None:
    print(f"{len(files)} images drawn, the first one is {files[0]}")
