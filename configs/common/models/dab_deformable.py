"""DAB-Deformable-DETR (arXiv:2201.12329): learned anchors that move through the layers."""

from detectron2.config import LazyCall as L

from ms_detr.variants import AnchorInitializer


def dab_deformable(model):
    """Change a two-stage model in place, and return it."""
    model.dropout = 0.0
    model.query_initializer = L(AnchorInitializer)(
        num_queries="${model.num_queries}", embed_dim="${model.embed_dim}", extra_queries=[]
    )
    model.decoder.epsilon = 1e-3
    model.decoder.size_bias = -2.0
    terms = model.criterion.terms
    terms.o2o.losses["class"].weight = 1.0
    terms.encoder = None
    model.postprocess.top_k = 300
    return model
