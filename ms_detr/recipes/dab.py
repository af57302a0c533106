"""DAB-DETR (arXiv:2201.12329): Conditional DETR with anchors that are refined and modulate."""

from detectron2.config import LazyCall as L
from omegaconf import DictConfig
from torch import nn

from ..layers import MLP
from ..variants import DABInitializer
from ._guard import recipe
from ._initializer import initializer_of
from .conditional import conditional


@recipe
def dab(model: DictConfig, dilated: bool = False) -> DictConfig:
    """Anchors as references, refined in every layer; see `dense`."""
    conditional(model, dilated)
    model.dropout = 0.0
    model.neck.position.temperature = 20.0
    model.encoder.position_scale = L(MLP)(
        in_dim="${model.embed_dim}",
        hidden_dim="${model.embed_dim}",
        out_dim="${model.embed_dim}",
        num_layers=2,
    )
    for layer in (model.encoder.layer, model.decoder.layer):
        layer.ffn.activation = L(nn.PReLU)()
    initializer = initializer_of(model)
    initializer["_target_"] = DABInitializer
    initializer.fixed_centers = True
    model.decoder.box_refinement = True
    model.decoder.look_forward_twice = True
    model.decoder.share_heads = True
    model.decoder.epsilon = 1e-3
    model.criterion.terms.o2o.losses["class"].weight = 1.0
    model.postprocess.top_k = 300
    return model
