"""A config around the stand-in detector."""

import torch
from detectron2.config import LazyCall as L
from detectron2.data import transforms as T
from fvcore.common.param_scheduler import MultiStepParamScheduler

from ms_detr.data import DetrMapper, build_test_loader, build_train_loader, coco_dataset
from ms_detr.engine import parameter_groups
from ms_detr.evaluation import CocoEvaluator
from tests.engine.standin import Detector

model = L(Detector)(
    num_classes=2,
    dropout=0.2,
    poison=None,
    poison_raises=False,
    kill_at=None,
    batch_statistics=False,
)
dataloader = dict(
    train=L(build_train_loader)(
        dataset=L(coco_dataset)(name="???", images="???", annotations="???"),
        mapper=L(DetrMapper)(augmentations=[L(T.RandomFlip)(prob=0.5)], is_train=True),
        total_batch_size=4,
        num_workers=0,
        seed="${train.seed}",
    ),
    test=L(build_test_loader)(
        dataset="${dataloader.train.dataset}",
        mapper=L(DetrMapper)(augmentations=[], is_train=False),
        batch_size=1,
        num_workers=0,
    ),
    evaluator=L(CocoEvaluator)(
        dataset_name="${dataloader.test.dataset.name}",
        output_dir="${train.output_dir}/evaluation",
    ),
)
optimizer = L(torch.optim.AdamW)(
    params=L(parameter_groups)(base_lr="${optimizer.lr}", lr_factors=dict(backbone=0.1)),
    lr=1e-3,
    betas=(0.9, 0.999),
    weight_decay=1e-4,
)
lr_multiplier = L(MultiStepParamScheduler)(values=[1.0, 0.1], milestones=[6], num_updates=9)
train = dict(
    output_dir="???",
    init_checkpoint="",
    epochs=3,  # of 3 iterations
    max_iter=None,
    seed=1,
    device="cpu",
    threads=1,
    clip_grad_norm=0.1,
    log_period=1,
    eval_epochs=2,
    checkpoint_epochs=1.0,
    checkpoints_to_keep=2,
    pictures=0,
    report=False,
)
