"""Query groups for any model: each function changes a model in place, and returns it.

On the command line a group goes with model.groups.X=null, model.criterion.terms.X=null and, if it
takes extra queries, model.query_initializer.extra_queries=[]. Group DETR leaves smaller weights
behind: set model.criterion.terms.o2o.weight=1 and copies=null there, o2m's and, in two stages,
encoder's likewise.
"""

import copy

from detectron2.config import LazyCall as L

from ms_detr.supervision import (
    KnownAssigner,
    LocalObjects,
    RepeatedHungarianAssigner,
    SupervisionTerm,
)
from ms_detr.variants.contrastive_denoising import ContrastiveDenoising
from ms_detr.variants.denoising import Denoising, Indicated
from ms_detr.variants.group import FurtherGroups, OwnSelections
from ms_detr.variants.hybrid import HybridQueries

from .deformable_detr import losses

COSTS = ("class_cost", "l1_cost", "giou_cost", "class_agnostic", "class_distance")


def hybrid(model, rows=1500, k=6):
    """Hybrid DETR: `rows` more queries, every object matched `k` times; losses as one-to-one."""
    model.groups.hybrid = L(HybridQueries)(rows=rows)
    _extra_queries(model).append("${model.groups.hybrid.rows}")
    terms = model.criterion.terms
    terms.hybrid = _like(terms.o2o, "hybrid.decoder")
    terms.hybrid.weight = 1.0
    terms.hybrid.pop("copies", None)  # of groups, if any
    # Classes and boxes alone are matched.
    costs = {key: value for key, value in terms.hybrid.assigner.items() if key in COSTS}
    terms.hybrid.assigner = L(RepeatedHungarianAssigner)(**costs, k=k)
    return model


def group(model, num_groups=11):
    """Group DETR: the loss is the average over `num_groups` groups, the primary queries one.

    Mixed supervision is the primary queries' and weighs as much less as their other terms.
    """
    model.groups.group = L(FurtherGroups)(num_groups=num_groups, num_queries="${model.num_queries}")
    _extra_queries(model).extend(["${model.num_queries}"] * (num_groups - 1))
    terms = model.criterion.terms
    _average(terms, "group", "o2o", num_groups)
    if terms.get("o2m") is not None:
        terms.o2m.weight /= num_groups
        terms.o2m.copies = num_groups
    return model


def group_two_stage(model, num_groups=11):
    """Group DETR whose groups look for their queries each by itself, as LW-DETR has it.

    Call it last of what changes the query initialiser or the encoder's term.
    """
    model = group(model, num_groups)
    model.query_initializer = L(OwnSelections)(initializer=model.query_initializer)
    _average(model.criterion.terms, "group_encoder", "encoder", num_groups)
    return model


def denoising(model):
    """DN-DETR's denoising; call it last of what changes the query initialiser.

    As published, every process divides by its own objects; contrastive denoising does not.
    """
    model = _denoise(model, Denoising, num_groups=5, label_noise=0.2, box_noise=0.4)
    model.query_initializer = L(Indicated)(initializer=model.query_initializer)
    model.criterion.terms.denoising.objects = L(LocalObjects)()
    return model


def contrastive_denoising(model):
    """DINO's contrastive denoising."""
    return _denoise(model, ContrastiveDenoising, num_queries=100, label_noise=0.25, box_noise=0.4)


def _extra_queries(model):
    """The list of them; what wraps an initialiser, as `denoising` does, takes them from it."""
    initializer = model.query_initializer
    while "initializer" in initializer:
        initializer = initializer.initializer
    return initializer.extra_queries


def _denoise(model, kind, **options):
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


def _average(terms, name, primary, num_groups):
    """Add a term for all groups but the first, whose own then weighs as much as one of them."""
    first = terms[primary]
    terms[name] = _like(first, f"group.{first.source}")
    terms[name].weight *= (num_groups - 1) / num_groups
    first.weight /= num_groups
    for term in (first, terms[name]):
        term.copies = num_groups


def _like(primary, source):
    """A term as the primary queries', for another source."""
    term = copy.deepcopy(primary)
    term.source = source
    return term
