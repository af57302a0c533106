"""Query groups for any model: each function changes a model in place, and returns it.

On the command line a group goes with model.groups.X=null, model.criterion.terms.X=null and, if it
takes extra queries, model.query_initializer.extra_queries=[].
"""

import copy

from detectron2.config import LazyCall as L

from ms_detr.supervision import (
    GroupedHungarianAssigner,
    KnownAssigner,
    LocalObjects,
    RepeatedHungarianAssigner,
    SupervisionTerm,
)
from ms_detr.variants.contrastive_denoising import ContrastiveDenoising
from ms_detr.variants.denoising import Denoising, Indicated
from ms_detr.variants.group import FurtherGroups
from ms_detr.variants.hybrid import HybridQueries

from .deformable_detr import losses

COSTS = ("class_cost", "l1_cost", "giou_cost", "class_distance")


def hybrid(model, rows=1500, k=6):
    """Hybrid DETR: `rows` more queries, every object matched `k` times; losses as one-to-one."""
    model.groups.hybrid = L(HybridQueries)(rows=rows)
    model.query_initializer.extra_queries.append("${model.groups.hybrid.rows}")
    model.criterion.terms.hybrid = _like_o2o(model, "hybrid", RepeatedHungarianAssigner, k=k)
    return model


def group(model, num_groups=11):
    """Group DETR: the loss is the average over `num_groups` groups, the primary queries one."""
    model.groups.group = L(FurtherGroups)(num_groups=num_groups, num_queries="${model.num_queries}")
    model.query_initializer.extra_queries.extend(["${model.num_queries}"] * (num_groups - 1))
    terms = model.criterion.terms
    terms.group = _like_o2o(model, "group", GroupedHungarianAssigner)
    terms.group.weight = terms.o2o.weight * (num_groups - 1) / num_groups
    terms.o2o.weight = terms.o2o.weight / num_groups
    return model


def denoising(model):
    """DN-DETR's denoising; call it last of what changes the query initialiser.

    As published, every process divides by its own objects; contrastive denoising does not.
    """
    model.groups.denoising = L(Denoising)(
        num_classes="${model.num_classes}",
        embed_dim="${model.embed_dim}",
        num_groups=5,
        label_noise=0.2,
        box_noise=0.4,
    )
    model.query_initializer = L(Indicated)(initializer=model.query_initializer)
    model = _denoise(model)
    model.criterion.terms.denoising.objects = L(LocalObjects)()
    return model


def contrastive_denoising(model):
    """DINO's contrastive denoising."""
    model.groups.denoising = L(ContrastiveDenoising)(
        num_classes="${model.num_classes}",
        embed_dim="${model.embed_dim}",
        num_queries=100,
        label_noise=0.25,
        box_noise=0.4,
    )
    return _denoise(model)


def _denoise(model):
    model.decoder.epsilon = 1e-3
    model.criterion.terms.denoising = L(SupervisionTerm)(
        source="denoising.decoder",
        assigner=L(KnownAssigner)(),
        losses=losses(class_weight=1.0),
        weight=1.0,
    )
    return model


def _like_o2o(model, name, assigner, **options):
    """A term for a group with the one-to-one term's losses, matched on class and box."""
    o2o = model.criterion.terms.o2o
    costs = {key: copy.deepcopy(o2o.assigner[key]) for key in COSTS if key in o2o.assigner}
    term = L(SupervisionTerm)(
        source=f"{name}.decoder",
        assigner=L(assigner)(**costs, **options),
        losses=copy.deepcopy(o2o.losses),
        weight=1.0,
    )
    if "mask_points" in o2o:
        term.mask_points = copy.deepcopy(o2o.mask_points)
    return term
