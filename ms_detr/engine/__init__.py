"""Training: the step, its hooks, checkpoints, several processes; and prediction."""

from .checkpoint import Checkpointer
from .hooks import CheckpointHook, EvaluationHook
from .launch import argument_parser, choose_device, launch, run_command
from .model import load_model
from .optimizer import build_optimizer, parameter_groups
from .predict import predict
from .state import read_checkpoint
from .train import run
from .trainer import Trainer
from .weights import load_weights

__all__ = [
    "CheckpointHook",
    "Checkpointer",
    "EvaluationHook",
    "Trainer",
    "argument_parser",
    "build_optimizer",
    "choose_device",
    "launch",
    "load_model",
    "load_weights",
    "parameter_groups",
    "predict",
    "read_checkpoint",
    "run",
    "run_command",
]
