"""Evaluate a trained model on the test dataset of its config.

ms-detr evaluate ms_detr/ms_detr_r50_300q_12ep.py model_final.pth --num-gpus 8 [key=value ...]
"""

import argparse

from ._arguments import expect_not
from ._tasks import Evaluation, add_process_arguments, launched


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    add = parser.add_argument
    add("config", metavar="CONFIG", help="the config that the model was trained with")
    add("weights", metavar="WEIGHTS", help="its checkpoint: a .pth file or a URL")
    add("opts", nargs="*", metavar="key=value", help="overrides: key=value, +key=value, ~key")
    add_process_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Start the processes, and wait for them."""
    expect_not(args.opts, {"train.init_checkpoint": "WEIGHTS"})
    return launched(Evaluation(args.config, tuple(args.opts), args.weights), args)
