"""Train, resume or evaluate a detector.

python train_net.py --config-file configs/demo/ms_detr.py train.max_iter=100
python train_net.py --config-file configs/... --num-gpus 8 [--resume | --eval-only] key=value ...
"""

import argparse
import sys

from omegaconf import OmegaConf

from ms_detr.config import load
from ms_detr.engine import argument_parser, launch, run, run_command
from ms_detr.pipes import with_reader


def main(args: argparse.Namespace) -> None:
    """What every process does."""
    run(load(args.config_file, args.opts), args)


def start(args: argparse.Namespace) -> None:
    """Start the processes."""
    # Loaded here, too: a misspelt key is found before any process is started.
    cfg = load(args.config_file, args.opts)
    launch(
        main,
        (args,),
        num_processes=args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        device=OmegaConf.select(cfg, "train.device", default="auto"),
        # Where nothing is trained there is nothing to go on with.
        output_dir=None if args.eval_only else OmegaConf.select(cfg, "train.output_dir"),
    )


def command() -> int:
    """Read the command line, run it."""
    args = argument_parser().parse_intermixed_args()
    return run_command(lambda: start(args), args.debug)


if __name__ == "__main__":
    sys.exit(with_reader(command))
