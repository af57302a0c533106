"""What a config computes from its other keys; importing this makes OmegaConf know it.

A link such as ``${extra_queries:${model.groups}}`` stands in configs and in the text that a
checkpoint keeps, so that whoever reads one of them imports this module.
"""

from __future__ import annotations

from hydra.utils import get_object as locate
from omegaconf import DictConfig, OmegaConf

from .errors import ConfigError
from .structures import Source

# What the groups take of the initialiser's queries follows from the groups.
EXTRA_QUERIES = "${extra_queries:${model.groups}}"
# Where the decoder predicts follows from the terms.
SOURCES = "${sources:${model.criterion.terms},${model.groups}}"


def extra_queries(groups: DictConfig | None) -> list[int]:
    """How many of an initialiser's queries each group takes, by the config of all groups."""
    counts = []
    for node in (groups or {}).values():
        if isinstance(node, DictConfig):
            options = {str(key): value for key, value in node.items()}
            target = options.pop("_target_")
            # Never by name out of a checkpoint, whose reader has put classes in their place.
            kind = locate(target) if isinstance(target, str) else target
            counts.append(kind.count_extra_queries(**options))
    return counts


def sources(terms: DictConfig | None, groups: DictConfig | None) -> list[str]:
    """What the terms supervise, by the configs of all terms and groups; a dropped one has none."""
    if terms is None:
        raise ConfigError("model.criterion.terms is null: a model needs supervision")
    nodes = [node for node in terms.values() if isinstance(node, DictConfig)]
    wanted = [Source.of(node.get("source")) for node in nodes]
    dropped = {name for name, node in (groups or {}).items() if node is None}
    return sorted(str(source) for source in wanted if source.group not in dropped)


OmegaConf.register_new_resolver("extra_queries", extra_queries, replace=True)
OmegaConf.register_new_resolver("sources", sources, replace=True)
