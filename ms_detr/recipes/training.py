"""Everything of a run that is neither model nor data: length, optimiser, learning rate."""

from typing import Any

import torch
from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import CosineParamScheduler, MultiStepParamScheduler
from omegaconf import DictConfig

from ..engine import parameter_groups

RESNET50 = "https://download.pytorch.org/models/resnet50-0676ba61.pth"


def run(**changes: Any) -> DictConfig:
    """The ``train`` node.

    Args:
        changes: values other than these.
    """
    train: dict[Any, Any] = dict(
        output_dir=None,  # output/ and the name of the config's file
        init_checkpoint=RESNET50,  # ImageNet weights of torchvision; a URL, a file, "" for none
        fine_tune=False,  # take of init_checkpoint what fits: other classes, queries, parts
        epochs=12.0,
        max_iter=None,  # instead of epochs
        max_hours=None,  # of a process; then it saves and ends as after SIGTERM, to be resumed
        seed=42,
        device="auto",  # CUDA if there is one
        threads=None,  # CPU threads a process; None leaves it to torch
        # On several GPUs, BatchNorm over the images of all, where it is trained. Otherwise each
        # process has statistics of its own, whose averages are evaluated and saved.
        sync_batchnorm=False,
        clip_grad_norm=0.1,
        accumulate=1,  # parts of a process's batch, one after the other: less memory, same step
        amp=dict(enabled=False, dtype="bfloat16"),  # or float16, with a scale
        ema=dict(decay=None),  # averages of the weights, evaluated beside them, e.g. 0.9997
        log_period=20,  # iterations
        eval_epochs=1.0,  # 0: only at the end
        checkpoint_epochs=1.0,
        checkpoints_to_keep=2,
        writers=[],  # of services: L(WandbWriter)(project=...), L(MlflowWriter)(experiment=...)
        pictures=4,  # images drawn for TensorBoard at each evaluation, 0 for none
        report=True,  # one HTML page at the end, report.html
    )
    train.update(changes)
    return DictConfig(train, flags={"allow_objects": True})


def adamw(lr: float, **lr_factors: float) -> DictConfig:
    """AdamW as the family uses it: weight decay on everything, some parameters at lower rates."""
    return L(torch.optim.AdamW)(
        params=L(parameter_groups)(base_lr="${optimizer.lr}", lr_factors=lr_factors),
        lr=lr,
        betas=(0.9, 0.999),
        weight_decay=1e-4,
    )


def step(drop: int, epochs: int) -> DictConfig:
    """A tenth of the learning rate after `drop` of `epochs` epochs, whatever the run's length."""
    return L(MultiStepParamScheduler)(values=[1.0, 0.1], milestones=[drop], num_updates=epochs)


def warmup_cosine() -> DictConfig:
    """A linear warm-up over a twentieth of the run, then half a cosine."""
    return L(WarmupParamScheduler)(
        scheduler=L(CosineParamScheduler)(start_value=1.0, end_value=0.0),
        warmup_factor=0.01,
        warmup_length=0.05,
        warmup_method="linear",
    )


Training = tuple[DictConfig, DictConfig, DictConfig]  # train, optimizer, lr_multiplier


def three_rates(**lr_factors: float) -> Training:
    """12 epochs of Deformable DETR and what builds on its code.

    Args:
        lr_factors: of what only some methods have.
    """
    factors = dict(backbone=0.1, sampling_offsets=0.1, **lr_factors)
    return run(), adamw(2e-4, **factors), step(11, 12)


def two_rates(epochs: int = 12, drop: int = 11) -> Training:
    """DETR, Conditional DETR, DAB-DETR and DINO.

    Args:
        drop: the epoch after which the learning rate is a tenth.
    """
    return run(epochs=float(epochs)), adamw(1e-4, backbone=0.1), step(drop, epochs)
