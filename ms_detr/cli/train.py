"""Train a detector, or go on with a training; `train_net.py` is the same.

ms-detr train demo/ms_detr.py train.max_iter=100
ms-detr train ms_detr/ms_detr_r50_300q_12ep.py --num-gpus 8 [--resume] [key=value ...]
ms-detr train --data FOLDER [--config CONFIG] [--split 0.8] [key=value ...]
"""

import argparse

from ms_detr.errors import ConfigError

from ._own_data import add_data_arguments, names_data, on_own_data
from ._tasks import Evaluation, Training, add_process_arguments, launched, named_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    add = parser.add_argument
    add("config", nargs="?", metavar="CONFIG", help="a config, e.g. one of configs/")
    add("opts", nargs="*", metavar="key=value", help="overrides: key=value, +key=value, ~key")
    add("--config-file", "--config", metavar="FILE", help="the same as CONFIG")
    add("--resume", action="store_true", help="continue the run in train.output_dir, if there")
    add("--eval-only", action="store_true", help="evaluate train.init_checkpoint, or with --resume "
        "the last checkpoint: see the verb evaluate")  # fmt: skip
    add_data_arguments(parser)
    add_process_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Start the processes, and wait for them."""
    return launched(task(args), args)


def task(args: argparse.Namespace) -> Training | Evaluation:
    """What the arguments ask for."""
    from ms_detr.config import load
    from ms_detr.overrides import values

    if names_data(args):
        return on_own_data(args)
    config, overrides = named_config(args)
    if not args.eval_only:
        return Training(config, overrides, args.resume)
    if args.resume:
        if values(overrides).get("train.init_checkpoint"):
            raise ConfigError(
                "--resume evaluates the last checkpoint, train.init_checkpoint another one: give "
                "one of them"
            )
        return Evaluation(config, overrides, None)
    train = load(config, overrides).train
    if not train.init_checkpoint:
        raise ConfigError(
            "--eval-only needs a trained model: train.init_checkpoint=FILE, or --resume for the "
            f"last checkpoint in {train.output_dir}"
        )
    return Evaluation(config, overrides, train.init_checkpoint)
