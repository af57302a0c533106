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
        max_hours=None,  # of a job; then it saves and ends as after SIGTERM, to be resumed
        timeout_minutes=30.0,  # that a step may take in several processes: who hangs ends all
        seed=42,
        device="auto",  # CUDA if there is one
        threads=None,  # CPU threads a process; None leaves it to torch
        # On several GPUs, BatchNorm over the images of all, where it is trained. Otherwise each
        # process has statistics of its own, whose averages are evaluated and saved.
        sync_batchnorm=False,
        clip_grad_norm=0.1,
        # On any number of devices a step has dataloader.train.total_batch_size images. So many of
        # them a device takes at once: None takes all of its own, "auto" as many as fit.
        batch_size=None,
        lr_batch_size=None,  # the total batch size that the learning rate is made for
        lr_scaling="none",  # to another: linear, sqrt
        compile=False,  # layers of encoder and decoder, and the backbone, by torch.compile
        max_skipped_steps=0,  # of a run, whose losses or gradients aren't finite; 0 ends it instead
        accumulate=1,  # parts of a process's batch, one after the other: less memory, same step
        # Less memory, more time: activations are computed again for the gradients.
        activation_checkpointing=dict(encoder=False, decoder=False, backbone=False),
        amp=dict(enabled=False, dtype="bfloat16"),  # or float16, with a scale
        ema=dict(decay=None),  # averages of the weights, evaluated beside them, e.g. 0.9997
        log_period=20,  # iterations
        eval_epochs=1.0,  # 0: only at the end
        checkpoint_epochs=1.0,
        checkpoints_to_keep=2,
        keep_every_epochs=0.0,  # checkpoints at multiples of it are kept beside these; 0: none
        best=None,  # metric of model_best.pth, e.g. bbox/AP-cell; None: segm/AP, else bbox/AP
        # Of Detectron2's own tool alone, in iterations; set otherwise, they are an error here.
        eval_period=5000,
        checkpointer=dict(period=5000, max_to_keep=2),
        ddp=dict(broadcast_buffers=False, find_unused_parameters=False, fp16_compression=False),
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


def three_rates(epochs: int = 12, drop: int = 11, **lr_factors: float) -> Training:
    """Deformable DETR and what builds on its code.

    Args:
        drop: the epoch after which the learning rate is a tenth.
        lr_factors: of what only some methods have.
    """
    factors = dict(backbone=0.1, sampling_offsets=0.1, **lr_factors)
    return run(epochs=float(epochs), lr_batch_size=16), adamw(2e-4, **factors), step(drop, epochs)


def two_rates(epochs: int = 12, drop: int = 11, lr: float = 1e-4) -> Training:
    """DETR, Conditional DETR, DAB-DETR and DINO; Co-DINO at twice the rate.

    Args:
        drop: the epoch after which the learning rate is a tenth.
    """
    train = run(epochs=float(epochs), lr_batch_size=16)
    return train, adamw(lr, backbone=0.1), step(drop, epochs)
