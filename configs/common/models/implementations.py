"""The other implementations of MS-DETR's idea (arXiv:2401.03989, Fig. 4); (c) is the default."""

from detectron2.config import LazyCall as L

from ms_detr.modeling import Heads, Tap, TapHeads, Taps

from .deformable_detr import class_head, ffn

SELF_FIRST = ("self_attention", "cross_attention", "ffn")


def at_the_output(model):
    """(b): both supervisions at the layer's output, classes by heads of their own.

    A tap behind the last sublayer hands out the layer's output once more; as released for (a), the
    box heads are shared.
    """
    model.decoder.layer.taps = L(Taps)(ffn=L(Tap)())
    model.decoder.tap_heads = L(TapHeads)(ffn=L(Heads)(class_head=class_head()))
    model.criterion.terms.o2m.source = "decoder.ffn"
    return model


def at_the_output_self_first(model):
    """(a): as (b), in the baseline's order."""
    model.decoder.layer.order = SELF_FIRST
    return at_the_output(model)


def after_self_attention(model):
    """(d): the baseline's order, one-to-many supervision behind self-attention."""
    model.decoder.layer.order = SELF_FIRST
    model.decoder.layer.taps = L(Taps)(self_attention=L(Tap)(ffn=ffn()))
    model.criterion.terms.o2m.source = "decoder.self_attention"
    return model
