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

    Keyword Args:
        output_dir: folder of the run; null: ``output/`` and the name of the config's file.
        init_checkpoint: weights to start from, a URL or a file; ``""``: none. Those here are
            torchvision's of ImageNet.
        fine_tune: take of ``init_checkpoint`` what fits: other classes, queries, parts.
        epochs: how long to train.
        max_iter: the same in iterations; whoever gives one of the two leaves the other out.
        max_hours: of a job; then it saves and ends as after SIGTERM, to be resumed.
        timeout_minutes: that a step may take in several processes; a process that hangs ends all.
        seed: of the initialisation, of the order of the images and of their augmentation.
        device: ``cuda``, ``cpu``, ...; ``auto`` is CUDA if there is one.
        threads: of the CPU, for each process; null leaves it to torch.
        sync_batchnorm: on several GPUs, BatchNorm over the images of all, where it is trained.
            Otherwise each process has statistics of its own, whose averages are evaluated and
            saved.
        clip_grad_norm: the largest norm of all gradients together.
        batch_size: images that a device takes at once, of the ``dataloader.train.total_batch_size``
            images that a step has on any number of devices; null: all of its own, ``auto``: as
            many as fit.
        lr_batch_size: the total batch size that the learning rate is made for.
        lr_scaling: how the learning rate follows another total batch size: ``none``, ``linear`` or
            ``sqrt``.
        compile: layers of encoder and decoder, and the backbone, by ``torch.compile``.
        max_skipped_steps: steps of a run that may be skipped because losses or gradients aren't
            finite; with 0 the first one ends it.
        accumulate: parts of a process's batch, taken one after the other: less memory, same step.
        activation_checkpointing: where activations are computed again for the gradients: less
            memory, more time.
        amp: mixed precision: whether, and ``bfloat16`` or ``float16``, which has a scale.
        ema: an average of the weights, evaluated beside them: its ``decay``, e.g. 0.9997; null:
            none.
        log_period: iterations between two lines of the log.
        eval_epochs: epochs between two evaluations; 0: only at the end.
        checkpoint_epochs: epochs between two checkpoints.
        checkpoints_to_keep: so many of them stay, the latest.
        keep_every_epochs: checkpoints at multiples of it are kept beside these; 0: none.
        best: metric of ``model_best.pth``, e.g. ``bbox/AP-cell``; null: ``segm/AP``, else
            ``bbox/AP``.
        eval_period: of Detectron2's own training tool alone, in iterations; set otherwise, it is
            an error here.
        checkpointer: the same.
        ddp: options of DistributedDataParallel for Detectron2's own tool alone.
        writers: of services: ``L(WandbWriter)(project=...)``, ``L(MlflowWriter)(experiment=...)``.
        pictures: images drawn for TensorBoard at each evaluation; 0: none.
        report: one HTML page at the end, ``report.html``.
    """
    train: dict[Any, Any] = dict(
        output_dir=None,
        init_checkpoint=RESNET50,
        fine_tune=False,
        epochs=12.0,
        max_iter=None,
        max_hours=None,
        timeout_minutes=30.0,
        seed=42,
        device="auto",
        threads=None,
        sync_batchnorm=False,
        clip_grad_norm=0.1,
        batch_size=None,
        lr_batch_size=None,
        lr_scaling="none",
        compile=False,
        max_skipped_steps=0,
        accumulate=1,
        activation_checkpointing=dict(encoder=False, decoder=False, backbone=False),
        amp=dict(enabled=False, dtype="bfloat16"),
        ema=dict(decay=None),
        log_period=20,
        eval_epochs=1.0,
        checkpoint_epochs=1.0,
        checkpoints_to_keep=2,
        keep_every_epochs=0.0,
        best=None,
        eval_period=5000,
        checkpointer=dict(period=5000, max_to_keep=2),
        ddp=dict(broadcast_buffers=False, find_unused_parameters=False, fp16_compression=False),
        writers=[],
        pictures=4,
        report=True,
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
