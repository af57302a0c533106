"""Training: the step, its hooks, checkpoints, several processes; and prediction."""

from .archive import read_checkpoint
from .checkpoint import Checkpointer
from .comparing import ComparedModel, Comparison, compare_models, compare_trainings
from .device import choose_device
from .hooks import CheckpointHook, EvaluationHook
from .launch import launch
from .mlflow_writer import MlflowWriter
from .model import load_model
from .optimizer import build_optimizer, parameter_groups
from .prediction import predict
from .predictor import Predictor
from .run import Origin, evaluate, train
from .trainer import Trainer
from .wandb_writer import WandbWriter
from .weights import load_weights

__all__ = [
    "CheckpointHook",
    "Checkpointer",
    "ComparedModel",
    "Comparison",
    "EvaluationHook",
    "MlflowWriter",
    "Origin",
    "Predictor",
    "Trainer",
    "WandbWriter",
    "build_optimizer",
    "choose_device",
    "compare_models",
    "compare_trainings",
    "evaluate",
    "launch",
    "load_model",
    "load_weights",
    "parameter_groups",
    "predict",
    "read_checkpoint",
    "train",
]
