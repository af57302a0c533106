"""Deformable DETR's other forms: "++", and one stage."""

from omegaconf import DictConfig

from ..modeling import LearnedInitializer
from ._guard import recipe
from ._initializer import initializer_of, set_initializer


@recipe
def plus_plus(model: DictConfig) -> DictConfig:
    """Deformable DETR++: mixed query selection, look forward twice, no dropout."""
    model.dropout = 0.0
    initializer_of(model).mixed_selection = True
    model.decoder.look_forward_twice = True
    return model


@recipe
def one_stage(model: DictConfig, box_refinement: bool) -> DictConfig:
    """Learned queries instead of the encoder's proposals (arXiv:2010.04159, section 4.1)."""
    set_initializer(model, LearnedInitializer)
    model.decoder.box_refinement = box_refinement
    model.decoder.size_bias = -2.0
    model.criterion.terms.encoder = None
    return model
