"""MS-DETR (arXiv:2401.03989): the queries of one decoder learn one-to-one and one-to-many.

Its four implementations (Fig. 4) differ in where one-to-many supervision reads the queries. Each is
a function here that prepares the decoder, and tells the source of the predictions there.
"""

import copy
from collections.abc import Callable

from detectron2.config import LazyCall as L
from fvcore.common.param_scheduler import LinearParamScheduler
from omegaconf import DictConfig

from ..modeling import Heads, Tap, TapHeads
from ..supervision import (
    AnchorHungarianAssigner,
    AssignedPairs,
    ReleasedTopK,
    SupervisionTerm,
)
from ..variants.detr import SoftmaxHead
from ._guard import recipe
from .deformable_detr import ffn, losses

CROSS_FIRST = ("cross_attention", "self_attention", "ffn")

Implementation = Callable[[DictConfig], str]


def after_cross_attention(model: DictConfig) -> str:
    """(c), the paper's choice: behind cross-attention, which comes first, with an own FFN."""
    model.decoder.layer.order = CROSS_FIRST
    model.decoder.layer.taps.cross_attention = L(Tap)(ffn=ffn())
    return "decoder.cross_attention"


def after_cross_attention_with_own_heads(model: DictConfig) -> str:
    """As (c), but classes and boxes of the tap have heads of their own, the paper's ablation."""
    source = after_cross_attention(model)
    own = {name: copy.deepcopy(model.decoder[name]) for name in ("class_head", "box_head")}
    model.decoder.tap_heads = L(TapHeads)(cross_attention=L(Heads)(**own))
    return source


def after_self_attention(model: DictConfig) -> str:
    """(d): behind self-attention, in the baseline's order, with an own FFN."""
    model.decoder.layer.taps.self_attention = L(Tap)(ffn=ffn())
    return "decoder.self_attention"


def at_the_output(model: DictConfig) -> str:
    """(b): both supervisions at the layer's output, cross-attention first.

    A tap behind the last sublayer hands out the layer's output once more. Classes have heads of
    their own there; as released for (a), the box heads are shared.
    """
    model.decoder.layer.order = CROSS_FIRST
    return at_the_output_self_first(model)


def at_the_output_self_first(model: DictConfig) -> str:
    """(a): as (b), in the baseline's order."""
    model.decoder.layer.taps.ffn = L(Tap)()
    class_head = copy.deepcopy(model.decoder.class_head)
    model.decoder.tap_heads = L(TapHeads)(ffn=L(Heads)(class_head=class_head))
    return "decoder.ffn"


@recipe
def mixed_supervision(
    model: DictConfig, implementation: Implementation = after_cross_attention
) -> DictConfig:
    """Add one-to-many supervision, the term ``o2m``, to a model of any method."""
    model.criterion.terms.o2m = L(SupervisionTerm)(
        source=implementation(model),
        assigner=L(ReleasedTopK)(k=6, threshold=0.4, alpha=0.3, quota=0.25),
        losses=losses(class_weight=2.0),
        weight=1.0,
    )
    if model.decoder.class_head["_target_"] is SoftmaxHead:  # not made for focal loss
        terms = model.criterion.terms
        terms.o2m.losses["class"] = copy.deepcopy(terms.o2o.losses["class"])
    return model


@recipe
def ms_detr(
    model: DictConfig, implementation: Implementation = after_cross_attention
) -> DictConfig:
    """Mixed supervision with the weights and the matching of proposals that were released.

    One-to-one classification weighs 1. Proposals that are matched whatever their class are matched
    on their anchors: where they start decides, not what they have learnt.
    """
    mixed_supervision(model, implementation)
    model.criterion.terms.o2o.losses["class"].weight = 1.0
    return _matched_on_anchors(model)


@recipe
def normalised_ms_detr(
    model: DictConfig, implementation: Implementation = after_cross_attention
) -> DictConfig:
    """MS-DETR whose one-to-many losses are means over the pairs that were assigned.

    They are not sums of up to six for every object, and one-to-one classification keeps the weight
    of the method, 2 in Deformable DETR, as that of one-to-many supervision: see docs/evidence.md.
    Everything else is as in `ms_detr`.
    """
    mixed_supervision(model, implementation)
    model.criterion.terms.o2m.objects = L(AssignedPairs)()
    return _matched_on_anchors(model)


@recipe
def fading_ms_detr(
    model: DictConfig, implementation: Implementation = after_cross_attention
) -> DictConfig:
    """MS-DETR whose one-to-many supervision fades from its published weight to nothing.

    So every training, long or short, ends with one-to-one supervision alone, whose classification
    keeps the weight of the method: see docs/evidence.md. Everything else is as in `ms_detr`.
    """
    mixed_supervision(model, implementation)
    model.criterion.terms.o2m.weight = L(LinearParamScheduler)(start_value=1.0, end_value=0.0)
    return _matched_on_anchors(model)


def _matched_on_anchors(model: DictConfig) -> DictConfig:
    terms = model.criterion.terms
    if terms.encoder is not None and terms.encoder.assigner.get("class_agnostic"):
        terms.encoder.assigner = L(AnchorHungarianAssigner)(
            class_cost=0.0, l1_cost=5.0, giou_cost=2.0, class_agnostic=True
        )
    return model
