"""Learned queries instead of the encoder's proposals (Deformable DETR, arXiv:2010.04159, 4.1)."""

from detectron2.config import LazyCall as L

from ms_detr.modeling import LearnedInitializer


def one_stage(model, box_refinement):
    """Change a two-stage model in place, and return it; its optimiser is `learned_points`."""
    model.query_initializer = L(LearnedInitializer)(
        num_queries="${model.num_queries}", embed_dim="${model.embed_dim}", extra_queries=[]
    )
    model.decoder.box_refinement = box_refinement
    model.decoder.size_bias = -2.0
    model.criterion.terms.encoder = None
    return model
