"""`ms-detr train --data`: from a folder of any form to a training."""

import argparse
import os

from ms_detr.errors import ConfigError

from ._arguments import Words, path
from ._reading import add_classes_argument, add_voc_arguments
from ._tasks import Training, named_config

# An argument, and the key that says the same.
KEYS = {
    "data": "dataloader.own.folder",
    "split": "dataloader.own.split",
    "format": "dataloader.own.form",
    "converted": "dataloader.own.converted",
    "classes": "dataloader.own.classes",
    "voc_boxes": "dataloader.own.voc_boxes",
    "difficult": "dataloader.own.difficult",
}


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that stand beside ``--data``."""
    group = parser.add_argument_group("data of your own", "a config is chosen unless one is given")
    add = group.add_argument
    add(
        "--data",
        type=path,
        metavar="FOLDER",
        help="COCO JSON, Pascal VOC, YOLO, LabelMe, or a mask image an object",
    )
    add(
        "--split",
        action=Words,
        of=float,
        metavar="SHARE",
        help="divide all images anew: the share of train, the rest is val; or those of train and "
        "val. Left out, the splits of FOLDER are taken, and 0.8 if it has none",
    )
    add("--format", help="of FOLDER, where it may be of several: coco, voc, yolo, labelme, masks")
    add(
        "--converted",
        type=path,
        metavar="DIR",
        help="where data are kept that have to be converted (default: beside the run's folder)",
    )
    add_classes_argument(add)
    add_voc_arguments(add)
    add("--weights", metavar="FILE", help="of a detector, to take what fits: see fine-tuning")


def names_data(args: argparse.Namespace) -> bool:
    """Whether any of the arguments, or of the keys of the same meaning, is there."""
    words = (args.config or "", *args.opts)
    return args.weights is not None or any(
        getattr(args, name) is not None or any(word.startswith(f"{key}=") for word in words)
        for name, key in KEYS.items()
    )


def on_own_data(args: argparse.Namespace) -> Training:
    """Prepare the training that the arguments, or the keys of the same meaning, ask for.

    Raises:
        UserError: see `ms_detr.own_data.prepare`; or arguments contradict each other.
    """
    from ms_detr.engine.slurm import as_torchruns
    from ms_detr.own_data import prepare, request_of
    from ms_detr.signals import raised

    config, overrides = _config(args)
    request, others = request_of([*overrides, *_as_keys(args, overrides)])
    if request is None:
        raise ConfigError(
            f"{_listed()} and --weights, or their keys, go with --data FOLDER: give it, or "
            f"{KEYS['data']}=FOLDER"
        )
    if args.eval_only:
        raise ConfigError(
            "--eval-only trains nothing on --data: ms-detr evaluate takes the config.py that a "
            "training has left in its folder, and the weights beside it"
        )
    started = {**os.environ, **as_torchruns(os.environ)}
    is_main = started.get("RANK", "0") == "0"
    processes = (args.num_gpus or 1) * (args.num_machines or 1)
    with raised():
        prepared = prepare(
            request,
            config,
            others,
            weights=args.weights,
            resume=args.resume,
            processes=int(started.get("WORLD_SIZE", processes)),
            write=is_main,
            progress=is_main,
        )
    if is_main:
        print("\n".join(prepared.lines), flush=True)
    return Training(prepared.config, prepared.overrides, args.resume)


def _config(args: argparse.Namespace) -> tuple[str | None, tuple[str, ...]]:
    """Return the config, None where one is to be chosen, and the overrides."""
    words = [word for word in (args.config, *args.opts) if word is not None]
    if args.data is None or args.config_file is not None:
        return named_config(args)
    if words and words[0].endswith(".py"):
        return words[0], tuple(words[1:])
    return None, tuple(words)


def _listed() -> str:
    """The arguments that have keys, but for the folder."""
    return ", ".join(f"--{name.replace('_', '-')}" for name in KEYS if name != "data")


def _as_keys(args: argparse.Namespace, overrides: tuple[str, ...]) -> list[str]:
    """Return the arguments as overrides."""
    from ms_detr.overrides import values

    given = {key: value for name, key in KEYS.items() if (value := getattr(args, name)) is not None}
    if twice := given.keys() & values(overrides).keys():
        raise ConfigError(f"{twice.pop()} says the same as an argument: give one of them")
    return [f"{key}={_as_value(value)}" for key, value in given.items()]


def _as_value(value: object) -> str:
    """A path, a text or a list as overrides have it."""
    from ms_detr.overrides import in_quotes

    if isinstance(value, list):
        return f"[{','.join(_as_value(each) for each in value)}]"
    return str(value) if isinstance(value, float) else in_quotes(str(value))
