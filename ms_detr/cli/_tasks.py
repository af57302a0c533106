"""Trainings and evaluations: their arguments, and what every process of theirs does."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from ms_detr.errors import ConfigError

EPILOG = (
    "torchrun starts the processes itself (torchrun -m ms_detr ...): leave --num-gpus, "
    "--num-machines, --machine-rank and --dist-url to it."
)


@dataclass(frozen=True)
class Training:
    """Train a config, or go on with its training. Called in every process."""

    config: str
    overrides: tuple[str, ...]
    resume: bool

    def __call__(self) -> Mapping[str, Any]:
        from ms_detr.config import load
        from ms_detr.engine import Origin, train

        origin = Origin(self.config, self.overrides)
        return train(load(self.config, self.overrides), self.resume, origin)


@dataclass(frozen=True)
class Evaluation:
    """Evaluate weights; None stands for the newest checkpoint. Called in every process."""

    config: str
    overrides: tuple[str, ...]
    weights: str | None

    def __call__(self) -> Mapping[str, Any]:
        from ms_detr.config import load
        from ms_detr.engine import Origin, evaluate

        origin = Origin(self.config, self.overrides)
        return evaluate(load(self.config, self.overrides), self.weights, origin)


def add_process_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say how many processes do the work, by Detectron2's names."""
    parser.epilog = EPILOG
    add = parser.add_argument
    add("--num-gpus", type=int, help="processes on this machine (on the CPU, too; default: 1)")
    add("--num-machines", type=int, help="number of machines (default: 1)")
    add("--machine-rank", type=int, help="the rank of this machine (default: 0)")
    add("--dist-url", help="where machines meet, e.g. tcp://first-machine:29500")


def launched(task: Training | Evaluation, args: argparse.Namespace) -> int:
    """Do a task in as many processes as the arguments say, and return the exit status."""
    from omegaconf import OmegaConf

    from ms_detr.config import load
    from ms_detr.engine import launch

    # Loaded here, too: a misspelt key is found before any process is started.
    cfg = load(task.config, task.overrides)
    launch(
        task,
        num_processes=args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        device=OmegaConf.select(cfg, "train.device", default="auto"),
        timeout=timedelta(minutes=_timeout(cfg)),
        # Where nothing is trained there is nothing to go on with.
        output_dir=OmegaConf.select(cfg, "train.output_dir")
        if isinstance(task, Training)
        else None,
    )
    return 0


def _timeout(cfg: Any) -> float:
    """The minutes that a step may take; what isn't sound is an error of the run, not yet here."""
    from omegaconf import OmegaConf

    from ms_detr.engine.checks import OPTIONAL

    default, fine, _ = OPTIONAL["timeout_minutes"]
    minutes = OmegaConf.select(cfg, "train.timeout_minutes", default=default)
    return minutes if fine(minutes) else default


def named_config(args: argparse.Namespace) -> tuple[str, tuple[str, ...]]:
    """Return the config and its overrides; the config is given as CONFIG or by --config-file.

    Raises:
        ConfigError: it is given in neither way.
    """
    words = [word for word in (args.config, *args.opts) if word is not None]
    if args.config_file is not None:
        return args.config_file, tuple(words)
    if not words:
        raise ConfigError("which config? Give one of `configs/`, or a .py file of your own")
    return words[0], tuple(words[1:])
