"""Group DETR (arXiv:2207.13085): several groups of queries, each learnt one-to-one."""

from detectron2.config import LazyCall as L
from omegaconf import DictConfig

from ..variants.group import FurtherGroups, OwnSelections
from ._guard import recipe
from ._initializer import wrap_initializer
from .deformable_detr import follow


@recipe
def group(model: DictConfig, num_groups: int = 11) -> DictConfig:
    """The loss is the average over `num_groups` groups, the primary queries one of them.

    Mixed supervision is the primary queries' and weighs as much less as their other terms.
    """
    model.groups.group = L(FurtherGroups)(num_groups=num_groups, num_queries="${model.num_queries}")
    model.criterion.terms.group = follow("o2o", source="group.decoder")
    return model


@recipe
def group_two_stage(model: DictConfig, num_groups: int = 11) -> DictConfig:
    """`group` whose groups look for their queries each by itself, as LW-DETR has it."""
    group(model, num_groups)
    wrap_initializer(model, OwnSelections)
    model.criterion.terms.group_encoder = follow("encoder", source="group.encoder")
    return model
