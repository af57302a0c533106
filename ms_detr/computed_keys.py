"""What a config computes from its other keys; importing this makes OmegaConf know it.

A link such as ``${extra_queries:${model.groups}}`` stands in configs and in the text that a
checkpoint keeps, so that whoever reads one of them imports this module.
"""

from __future__ import annotations

from typing import Any

from hydra.utils import get_object as locate
from omegaconf import DictConfig, OmegaConf

from .errors import ConfigError
from .structures import Source

# What the groups take of the initialiser's queries follows from the groups.
EXTRA_QUERIES = "${extra_queries:${model.groups}}"
# Where the decoder predicts follows from the terms.
SOURCES = "${sources:${model.criterion.terms},${model.groups}}"
# Whether queries' positions follow their boxes is a matter of their initialiser.
MOVING_POSITIONS = "${moving_positions:${model.query_initializer}}"


def extra_queries(groups: DictConfig | None) -> list[int]:
    """How many of an initialiser's queries each group takes, by the config of all groups."""
    counts = []
    for node in (groups or {}).values():
        if isinstance(node, DictConfig):
            options = {str(key): value for key, value in node.items() if key != "_target_"}
            counts.append(_kind(node).count_extra_queries(**options))
    return counts


def sources(terms: DictConfig | None, groups: DictConfig | None) -> list[str]:
    """What the terms supervise, by the configs of all terms and groups; a dropped one has none."""
    if terms is None:
        raise ConfigError("model.criterion.terms is null: a model needs supervision")
    nodes = [node for node in terms.values() if isinstance(node, DictConfig)]
    wanted = [Source.of(node.get("source")) for node in nodes]
    dropped = {name for name, node in (groups or {}).items() if node is None}
    return sorted(str(source) for source in wanted if source.group not in dropped)


def moving_positions(initializer: DictConfig) -> bool:
    """`QueryInitializer.moving_positions` by the config of an initialiser, which may be wrapped."""
    while "initializer" in initializer:
        initializer = initializer["initializer"]
    return _kind(initializer).moving_positions


def _kind(node: DictConfig) -> Any:
    """The class that a config makes an object of."""
    target = node["_target_"]
    # Never by name out of a checkpoint, whose reader has put classes in their place.
    return locate(target) if isinstance(target, str) else target


OmegaConf.register_new_resolver("extra_queries", extra_queries, replace=True)
OmegaConf.register_new_resolver("sources", sources, replace=True)
OmegaConf.register_new_resolver("moving_positions", moving_positions, replace=True)
