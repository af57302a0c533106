"""Two public datasets of micrographs, for two CPU cores: blood cells (BCCD) and nuclei.

The methods are the demo's, behind a pretrained EfficientNet-Lite0. The recipe was tuned on blood
cells, on the baseline alone and a part of the training images: docs/evidence.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from detectron2.config import LazyCall as L
from omegaconf import DictConfig

from ..data import micrograph_augmentations
from .backbones import LITE0_CHANNELS, efficientnet_lite0
from .data import small_data
from .demo import Nodes, method, narrow, small_adamw, small_masks
from .masks import dot_product, with_prior
from .training import run, warmup_cosine

Supervision = Callable[[DictConfig], DictConfig]  # a recipe such as `ms_detr`


def bccd(name: str, folder: str, supervision: Supervision | None = None) -> Nodes:
    """Return the config of a method on BCCD: red and white blood cells, and platelets.

    Args:
        name: a key of `ms_detr.recipes.demo.METHODS`.
        folder: of the run, in ``output/bccd``.
        supervision: the recipe of mixed supervision; None for the method alone.
    """
    model, train = _small(name, supervision, classes=3, queries=60)
    train.output_dir = f"output/bccd/{folder}"
    return (
        model,
        _data("bccd", short_edge=160),
        train,
        small_adamw(method(name).lr),
        warmup_cosine(),
    )


def nuclei(
    name: str,
    folder: str,
    supervision: Supervision | None = None,
    mask_terms: Sequence[str] = ("o2o",),
) -> Nodes:
    """Return the config of a method with masks on the nuclei of the Data Science Bowl 2018.

    Args:
        name: a key of `ms_detr.recipes.demo.METHODS`.
        folder: of the run, in ``output/nuclei``.
        supervision: the recipe of mixed supervision; None for the method alone.
        mask_terms: the terms that supervise masks.
    """
    model, train = _small(name, supervision, classes=1, queries=150)
    small_masks(model, with_prior(dot_product(res2=LITE0_CHANNELS["res2"])), terms=mask_terms)
    model.postprocess.top_k = 150
    train.output_dir = f"output/nuclei/{folder}"
    dataloader = _data("nuclei", short_edge=256)
    dataloader.masks = True
    dataloader.evaluator.max_detections = 150  # an image has up to 375
    return model, dataloader, train, small_adamw(method(name).lr), warmup_cosine()


def _small(
    name: str, supervision: Supervision | None, classes: int, queries: int
) -> tuple[DictConfig, DictConfig]:
    """A method's model behind the backbone, and how it is trained."""
    train = run(
        epochs=None,
        max_iter=2000,
        lr_batch_size=2,
        eval_epochs=0.0,
        checkpoint_epochs=10.0,
        clip_grad_norm=1.0,
        log_period=50,
    )

    def small(model: DictConfig) -> DictConfig:
        efficientnet_lite0(model, train)
        model.backbone.freeze_at = 5  # all of it
        if "num_levels" not in model.neck:  # one map, of stride 16
            model.neck.in_channels = dict(res4=LITE0_CHANNELS["res4"])
            model.backbone.out_features = ["res4"]
        return narrow(model)

    model = method(name).build(small)
    model.num_classes = classes
    model.num_queries = queries
    model.criterion.terms.o2o.losses["class"].weight = method(name).class_weight
    if supervision is not None:
        supervision(model)
    return model, train


def _data(name: str, short_edge: int) -> DictConfig:
    dataloader = small_data(name)
    dataloader.short_edge = short_edge
    dataloader.train.mapper.augmentations = L(micrograph_augmentations)(
        short_edge="${dataloader.short_edge}"
    )
    dataloader.train.total_batch_size = 2
    return dataloader
