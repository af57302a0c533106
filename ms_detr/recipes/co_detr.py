"""Co-DETR (arXiv:2211.12860): detection heads on the encoder, whose positives become queries.

Every head has a name: ``model.auxiliary.heads.atss``, the group ``model.groups.atss`` of its
positives, and the term ``model.criterion.terms.atss`` that supervises them. Their weights are the
paper's lambda 2, times the six layers that its sum has it in, and lambda 1 (Eq. 6).
"""

from collections.abc import Callable, Sequence
from typing import Any

from detectron2.config import LazyCall as L
from omegaconf import DictConfig

from ..auxiliary import (
    Adapter,
    ATSSHead,
    Auxiliary,
    AuxiliaryHeads,
    FasterRCNNHead,
    FCOSHead,
    RandomSampler,
    RetinaNetHead,
)
from ..computed_keys import MOVING_POSITIONS
from ..errors import ConfigError
from ..supervision import KnownAssigner, KnownObjects, Losses, SupervisionTerm
from ..variants.co_detr import NegativePadding, PositiveQueries, fitting_encoding
from ._guard import recipe
from ._initializer import initializer_of
from .dino import dino
from .iou_aware import quality_focal_loss
from .postprocess import soft_nms

Head = Callable[[], DictConfig]


def atss() -> DictConfig:
    """The config of an ATSS head (arXiv:1912.02424)."""
    return _head(ATSSHead, class_weight=1.0, box_weight=2.0, centerness_weight=1.0, top_k=9)


def rcnn() -> DictConfig:
    """The config of a region proposal network and Faster R-CNN's head (arXiv:1506.01497)."""
    return _head(
        FasterRCNNHead,
        class_weight=1.0,
        box_weight=10.0,
        rpn_class_weight=1.0,
        rpn_box_weight=1.0,
        anchor_sampler=L(RandomSampler)(number=256, positive_fraction=0.5),
        sampler=L(RandomSampler)(number=512, positive_fraction=0.25),
        channels=1024,
    )


def retinanet() -> DictConfig:
    """The config of a RetinaNet head (arXiv:1708.02002)."""
    return _head(RetinaNetHead, class_weight=1.0, box_weight=2.0, positive=0.5, negative=0.4)


def fcos() -> DictConfig:
    """The config of an FCOS head (arXiv:1904.01355)."""
    return _head(FCOSHead, class_weight=1.0, box_weight=1.0, centerness_weight=1.0, radius=1.5)


BOTH: Sequence[Head] = (rcnn, atss)


@recipe
def co_detr(model: DictConfig, heads: Sequence[Head] = BOTH) -> DictConfig:
    """Co-DETR on any method of several maps. The new queries' losses are those of the term `o2o`.

    Args:
        heads: functions that make a head's config; they give it its name, too. The paper has two
            (K = 2), or `atss` alone (K = 1).
    """
    if "num_levels" not in model.neck:
        raise ConfigError(
            "co_detr() adds heads to a method of several maps, this one reads "
            f"{[*model.neck.in_channels]}"
        )
    named = {head.__name__: head() for head in heads}
    if len(named) < len(heads):
        raise ConfigError(f"co_detr() has two heads of one name: {[x.__name__ for x in heads]}")
    taken = named.keys() & {*model.groups, *model.criterion.terms}
    if taken and model.auxiliary is None:
        raise ConfigError(
            f"co_detr() names a group and a term after each head, and the model has some that are "
            f"called {', '.join(sorted(taken))}: give the head's function another name"
        )
    model.auxiliary = L(Auxiliary)(
        adapter=L(Adapter)(embed_dim="${model.embed_dim}", num_levels=1),
        heads=L(AuxiliaryHeads)(**named),
    )
    for name in named:
        model.groups[name] = _positive_queries(name)
        model.criterion.terms[name] = _term(name)
    return model


@recipe
def co_dino(model: DictConfig, heads: Sequence[Head] = BOTH) -> DictConfig:
    """Co-DETR on DINO, which it brings with it, as it was released.

    Classes learn how well a box fits, by quality focal loss; every layer has heads of its own;
    the content starts from N(0, 1); denoising moves boxes further; detections go through soft-NMS.
    """
    dino(model)
    initializer_of(model).unit_content = True
    model.decoder.share_heads = False
    model.groups.denoising.box_noise = 1.0
    for name in ("o2o", "encoder", "denoising"):
        model.criterion.terms[name].losses["class"] = quality_focal_loss()
    return soft_nms(co_detr(model, heads))


def _head(kind: Callable[..., Any], **options: Any) -> DictConfig:
    """The config of a head on all maps of encoder and adapter; it learns the model's classes."""
    return L(kind)(
        embed_dim="${model.embed_dim}",
        num_classes="${model.num_classes}",
        num_levels=("${model.neck.num_levels}", "${model.auxiliary.adapter.num_levels}"),
        weight=12.0,
        **options,
    )


def _positive_queries(head: str) -> DictConfig:
    """A group of a head's positives."""
    return L(PositiveQueries)(
        head=head,
        encoding=L(fitting_encoding)(moving=MOVING_POSITIONS, embed_dim="${model.embed_dim}"),
        padding=L(NegativePadding)(),
        max_queries=300,
        min_queries=9,
        own_pass=False,
    )


def _term(group: str) -> DictConfig:
    """The term of such a group; masks are none of its losses."""
    primary = "${model.criterion.terms.o2o.losses.%s}"
    return L(SupervisionTerm)(
        source=f"{group}.decoder",
        assigner=L(KnownAssigner)(),
        losses=L(Losses)(**{name: primary % name for name in ("class", "bbox", "giou")}),
        weight=1.0,
        objects=L(KnownObjects)(),
    )
