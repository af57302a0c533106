"""The demo's size and schedule: small enough to train from scratch on two CPU cores."""

from detectron2.config import LazyCall as L

from ms_detr.backbones import small_resnet

from .models.masks import dot_product, with_masks, with_prior
from .models.plus_plus import plus_plus
from .optim import optimizer
from .schedules import warmup_cosine as lr_multiplier
from .train import train


def resize(model):
    """Make a two-stage COCO model small, in place; what makes another method of it comes behind."""
    model.num_classes = 6
    model.num_queries = 48
    model.embed_dim = 64
    model.num_heads = 4
    model.feedforward_dim = 256
    model.dropout = 0.0
    model.backbone = L(small_resnet)(widths=(24, 48, 96, 160), blocks=2, norm="BN")
    model.neck.in_channels = dict(res2=48, res3=96, res4=160)
    model.neck.num_levels = 3
    model.encoder.layer.attention.attention.num_points = 2
    model.encoder.num_layers = 2
    model.decoder.num_layers = 3
    # Objects fill more of these images than of COCO's.
    model.query_initializer.anchor_size = 0.2
    return model


def shrink(model):
    """Make a COCO model a demo model, in place; mixed query selection, look forward twice."""
    return plus_plus(resize(model))


def soften(model):
    """MS-DETR's weights for so short a training, in place; the published ones leave duplicates."""
    model.criterion.terms.o2m.weight = 0.5
    return weigh_classes(model)


def weigh_classes(model):
    """One-to-one classification counts 2, in place."""
    model.criterion.terms.o2o.losses["class"].weight = 2.0
    return model


def small_masks(model, branch=None, **options):
    """Masks at the demo's size; at a weight of 5 their losses drown the boxes' in so few steps.

    They have stride 2, since objects are small, and start from the boxes.
    """
    branch = branch or with_prior(dot_product(scale=2, stem=24))
    return with_masks(model, branch, weight=1.0, num_points=1024, **options)


optimizer.lr = 2e-3
optimizer.betas = (0.9, 0.99)
optimizer.fused = True
optimizer.params.lr_factors = {}
train.init_checkpoint = ""
train.epochs, train.max_iter = None, 3200
train.eval_epochs = 0.0
train.clip_grad_norm = 1.0
train.log_period = 50
