"""DAB-Deformable-DETR (arXiv:2201.12329): learned anchors that move through the layers."""

from omegaconf import DictConfig

from ..variants import AnchorInitializer
from ._guard import recipe
from ._initializer import set_initializer


@recipe
def dab_deformable(model: DictConfig) -> DictConfig:
    """Anchors as references, positions that follow them; one stage."""
    model.dropout = 0.0
    set_initializer(model, AnchorInitializer)
    model.decoder.epsilon = 1e-3
    model.decoder.size_bias = -2.0
    terms = model.criterion.terms
    terms.o2o.losses["class"].weight = 1.0
    terms.encoder = None
    model.postprocess.top_k = 300
    return model
