"""Align-DETR (arXiv:2304.07527): mixed matching, and losses that know how well a box fits."""

from detectron2.config import LazyCall as L
from omegaconf import DictConfig

from ..variants.align import MixedHungarianAssigner
from ..variants.iou_aware import RankWeight
from ._guard import recipe
from .dino import dino
from .iou_aware import ia_bce_loss


@recipe
def align(model: DictConfig, k: int = 2, tau: float = 1.5) -> DictConfig:
    """Align-DETR on DINO, which it brings with it, as detrex has it.

    Args:
        k: queries an object in all layers but the last.
        tau: how fast the weight of a query falls with its rank.
    """
    dino(model)
    model.neck.position.temperature = 10000.0
    model.neck.position.offset = -0.5
    model.decoder.share_heads = False
    model.groups.denoising.box_noise = 1.0
    terms = model.criterion.terms
    for term, last_k in ((terms.o2o, 1), (terms.encoder, k)):
        term.assigner["_target_"] = MixedHungarianAssigner
        term.assigner.k = k
        term.assigner.last_k = last_k
        term.losses["class"] = ia_bce_loss(tau)
        for loss in (term.losses.bbox, term.losses.giou):
            loss.pair_weight = L(RankWeight)(alpha=0.25, tau=tau)
    terms.denoising.losses["class"] = ia_bce_loss(tau)
    return model
