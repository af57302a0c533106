"""How the one-to-one losses of several runs fall (MS-DETR, arXiv:2401.03989, Fig. 2)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import yaml
from matplotlib.figure import Figure

from ..errors import DataError, MissingFileError
from ..run_folder import CONFIG, METRICS, read_metrics
from .figures import save

KINDS = {"classification": ("class",), "box": ("bbox", "giou")}
TERM = "o2o"


def read_losses(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """(iteration, loss) of a run's one-to-one term by kind, summed over layers.

    Class and box losses are divided by the weights of the run's config, for runs differ in them.

    Raises:
        MissingFileError: the folder holds no run.
        DataError: the run logged no losses of the term, or its config is damaged or has none.
    """
    metrics, config = folder / METRICS, folder / CONFIG
    for path in (metrics, config):
        if not path.is_file():
            raise MissingFileError(f"{path} is missing: give the train.output_dir of a run")
    try:
        term = yaml.safe_load(config.read_text(encoding="utf-8"))
        term = term["model"]["criterion"]["terms"][TERM]
        losses = {name: loss for name, loss in term["losses"].items() if isinstance(loss, dict)}
        weights = {name: term["weight"] * loss["weight"] for name, loss in losses.items()}
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(
            f"{config} is damaged, or has no weights of a term '{TERM}' to divide losses by"
        ) from error
    curves: dict[str, list[tuple[int, float]]] = {kind: [] for kind in KINDS}
    for line in read_metrics(folder):
        for kind, names in KINDS.items():
            pattern = re.compile(rf"{TERM}/loss_({'|'.join(names)})/\d+")
            found = [
                value / weights[match[1]]
                for key, value in line.items()
                if (match := pattern.fullmatch(key)) and weights.get(match[1])
            ]
            if found:
                curves[kind].append((line["iteration"], sum(found)))
    if not all(curves.values()):
        raise DataError(f"{metrics} has no losses of the term '{TERM}'")
    return curves


def draw_losses(runs: Mapping[str, Path], file: Path) -> Path:
    """Write curves of all runs: classification left, boxes (L1 and GIoU) right.

    Args:
        runs: output folders by name.
    """
    curves = {name: read_losses(folder) for name, folder in runs.items()}
    figure = Figure(figsize=(11, 4), layout="constrained")
    for axes, kind in zip(figure.subplots(1, 2), KINDS, strict=True):
        for name, kinds in curves.items():
            points = kinds[kind]
            # A line through one point is none.
            axes.plot(*zip(*points, strict=True), label=name, marker="" if len(points) > 1 else "o")
        axes.set(xlabel="iteration", ylabel="loss, all layers", title=f"one-to-one {kind} loss")
        axes.set_yscale("log")
        axes.grid(alpha=0.3)
        axes.legend()
    return save(figure, file)
