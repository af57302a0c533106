"""From a folder of data to a config in a run's folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import load
from ..data.formats.importing import expect_outside
from ..engine.checkpoint import expect_unused
from ..engine.device import choose_device
from ..errors import DataError
from ..overrides import values
from ..paths import expand
from ..run_folder import FINAL, OWN_CONFIG
from .choices import ON_CPU, ON_GPU, Choice, Measured, Recipes, data, masks, queries, schedule
from .choices import weights as weights_of
from .config_file import base_name, overrides_of, write_config
from .facts import facts_of
from .request import Request
from .source import Source, obtain

CONVERTED = "converted"  # the folder of converted data, beside that of a run


@dataclass(frozen=True)
class Prepared:
    """What is trained.

    Attributes:
        config: a config file.
        overrides: of it.
        lines: what was chosen, and which key changes it, for people.
    """

    config: str
    overrides: tuple[str, ...]
    lines: tuple[str, ...]


def prepare(
    request: Request,
    config: str | None = None,
    overrides: Sequence[str] = (),
    *,
    weights: str | None = None,
    resume: bool = False,
    processes: int = 1,
    write: bool = True,
    progress: bool = False,
) -> Prepared:
    """Choose what a training on a folder of data needs, and write it as a config.

    The config is ``config.py`` in ``train.output_dir``, which is ``output/`` and the folder's name
    unless an override says otherwise; it holds the overrides, too.

    Args:
        config: a config; None takes one for the device and for boxes or masks.
        overrides: keys that are not to be chosen.
        weights: of a detector, of which is taken what fits.
        resume: go on with the config that is there, if there is one.
        processes: that share a step's images.
        write: the main process writes; others get the same as overrides.
        progress: show bars on a terminal.

    Raises:
        ConfigError: an argument is wrong; the run's folder is in use, or lies in the data.
        DataError: the data are of no form that is known, or nothing can be learnt of them.
        MissingFileError: the config or the weights aren't there.
        OSError: something can't be written; names it.
    """
    said = values(overrides)
    output = Path(expand(said.get("train.output_dir") or f"output/{request.name}"))
    file = output / OWN_CONFIG
    if resume and file.is_file():
        others = [text for text in overrides if "train.output_dir" not in values([text])]
        return Prepared(str(file), tuple(others), (f"going on with {file}, as it was chosen",))
    recipes = _recipes(said)
    load(config or recipes.masks, overrides)  # a misspelt key is found before anything is done
    kept = request.converted or output.parent / CONVERTED
    expect_outside(request.folder, output, "train.output_dir")
    expect_outside(request.folder, kept, "--converted")
    if write:
        expect_unused(output)
    measured = _measured(obtain(request, kept, progress))
    base = config or (recipes.masks if measured.masks else recipes.boxes)
    cfg = load(base, overrides)
    choices = [
        *data(measured),
        Choice("recipe", base_name(base), "--config"),
        *masks(measured, cfg),
        *weights_of(cfg, said, weights),
        *queries(measured, cfg),
        *schedule(measured, cfg, said, processes),
    ]
    lines = [*map(str, choices), *measured.source.problems]
    chosen = overrides_of(choices, said)
    if not write:
        given = [text for text, _ in chosen] + [f"train.output_dir={output}"]
        return Prepared(base, (*given, *overrides), ())
    write_config(output, request.folder.resolve(), base, chosen, overrides)
    load(file)
    after = f"afterwards: ms-detr evaluate {file} {output / FINAL}"
    return Prepared(str(file), (), (*lines, str(Choice("config", str(file), after))))


def _recipes(said: Mapping[str, Any]) -> Recipes:
    device = choose_device(said.get("train.device") or "auto")
    return ON_CPU if device.type == "cpu" else ON_GPU


def _measured(source: Source) -> Measured:
    """Count the splits that are trained and evaluated.

    Raises:
        DataError: there are no training data.
    """
    if "train" not in source.splits:
        raise DataError(
            f"the data have the splits {', '.join(source.splits)} and none to train on: --split "
            "0.8 divides all images anew"
        )
    evaluated = next((x for x in ("val", "test") if x in source.splits), "train")
    train = facts_of(source.splits["train"])
    test = train if evaluated == "train" else facts_of(source.splits[evaluated])
    return Measured(source, train, test, evaluated)
