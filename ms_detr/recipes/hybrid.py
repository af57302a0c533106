"""Hybrid DETR (arXiv:2207.13080): further queries that learn every object several times."""

from detectron2.config import LazyCall as L
from omegaconf import DictConfig

from ..supervision import RepeatedHungarianAssigner
from ..variants.hybrid import HybridQueries
from ._guard import recipe
from .deformable_detr import follow


@recipe
def hybrid(model: DictConfig, num_queries: int = 1500, k: int = 6) -> DictConfig:
    """`num_queries` more queries in training, each object matched `k` times; losses as usual."""
    model.groups.hybrid = L(HybridQueries)(num_queries=num_queries)
    primary = "${model.criterion.terms.o2o.assigner.%s}"
    # Classes and boxes alone are matched.
    costs = ("class_cost", "l1_cost", "giou_cost", "class_distance")
    model.criterion.terms.hybrid = follow(
        "o2o",
        source="hybrid.decoder",
        assigner=L(RepeatedHungarianAssigner)(**{name: primary % name for name in costs}, k=k),
        weight=1.0,
    )
    return model
