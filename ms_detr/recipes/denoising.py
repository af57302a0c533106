"""Denoising: queries made of the objects with noise (DN-DETR, DINO)."""

from collections.abc import Callable
from typing import Any

from detectron2.config import LazyCall as L
from omegaconf import DictConfig

from ..supervision import KnownAssigner, LocalObjects, SupervisionTerm
from ..variants.contrastive_denoising import ContrastiveDenoising
from ..variants.denoising import Denoising, Indicated
from ._guard import recipe
from ._initializer import wrap_all
from .deformable_detr import losses


@recipe
def denoising(model: DictConfig) -> DictConfig:
    """DN-DETR's (arXiv:2203.01305).

    As published, every process divides by its own objects; contrastive denoising does not.
    """
    _denoise(model, Denoising, num_groups=5, label_noise=0.2, box_noise=0.4)
    wrap_all(model, Indicated)
    model.criterion.terms.denoising.objects = L(LocalObjects)()
    return model


@recipe
def contrastive_denoising(model: DictConfig) -> DictConfig:
    """DINO's (arXiv:2203.03605)."""
    return _denoise(model, ContrastiveDenoising, num_queries=100, label_noise=0.25, box_noise=0.4)


def _denoise(model: DictConfig, kind: Callable[..., Any], **options: Any) -> DictConfig:
    model.groups.denoising = L(kind)(
        num_classes="${model.num_classes}",
        embed_dim="${model.embed_dim}",
        epsilon="${model.decoder.epsilon}",
        **options,
    )
    model.decoder.epsilon = 1e-3
    model.criterion.terms.denoising = L(SupervisionTerm)(
        source="denoising.decoder",
        assigner=L(KnownAssigner)(),
        losses=losses(class_weight=1.0),
        weight=1.0,
    )
    return model
