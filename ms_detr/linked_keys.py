"""One key, many parts: a model's own keys against what its parts were built with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from .errors import ConfigError
from .layers import FFN, DeformableAttention, SinePositionEncoding
from .layers.dense_attention import SplitAttention
from .layers.transformer import Sublayer
from .modeling import BoxHead, ClassHead, Groups, Neck, QueryInitializer, SingleScaleNeck
from .variants.denoising import DenoisingGroup

LINKS: tuple[tuple[type[nn.Module], str, Callable[[Any], float]], ...] = (
    (QueryInitializer, "num_queries", lambda part: part.num_queries),
    (QueryInitializer, "embed_dim", lambda part: part.embed_dim),
    (Neck, "embed_dim", lambda part: part.level_embedding.shape[1]),
    (SingleScaleNeck, "embed_dim", lambda part: part.projection.out_channels),
    (SinePositionEncoding, "embed_dim", lambda part: 2 * part.channels),
    (Sublayer, "embed_dim", lambda part: part.norm.normalized_shape[0]),
    (DeformableAttention, "embed_dim", lambda part: part.value_proj.in_features),
    (ClassHead, "embed_dim", lambda part: part.in_features),
    (BoxHead, "embed_dim", lambda part: part[0].in_features),
    (DenoisingGroup, "embed_dim", lambda part: part.embed_dim),
    (DenoisingGroup, "num_classes", lambda part: part.num_classes),
    (ClassHead, "num_classes", lambda part: part.num_classes),
    (nn.MultiheadAttention, "num_heads", lambda part: part.num_heads),
    (SplitAttention, "num_heads", lambda part: part.num_heads),
    (DeformableAttention, "num_heads", lambda part: part.num_heads),
    (FFN, "feedforward_dim", lambda part: part.linear1.out_features),
    (nn.Dropout, "dropout", lambda part: part.p),
)


def check_linked_keys(model: nn.Module, **keys: float) -> None:
    """Raise ValueError if a part was built with another value than the model's key says.

    What a backbone is made of is its own matter.
    """
    for name, part in model.named_modules():
        if name.startswith("backbone."):
            continue
        for kind, key, read in LINKS:
            if isinstance(part, kind) and read(part) != keys[key]:
                raise ConfigError(
                    f"model.{key} is {keys[key]}, but model.{name} was built with {read(part)}: "
                    f"link it with '${{model.{key}}}'"
                )


def check_backbone(part: str, wanted: Mapping[str, int], offered: Mapping[str, int]) -> None:
    """Raise ValueError if a part reads other maps than the backbone offers (channels by name)."""
    for name, channels in wanted.items():
        if offered.get(name) != channels:
            raise ConfigError(
                f"{part}.in_channels wants {channels} channels of '{name}', "
                f"the backbone offers {dict(offered)}"
            )


def check_fine_to_coarse(strides: Mapping[str, int]) -> None:
    """Raise ValueError if the neck's maps (strides by name) are not in order."""
    if list(strides.values()) != sorted(strides.values()):
        raise ConfigError(
            f"model.neck.in_channels must name maps from fine to coarse, got {dict(strides)}"
        )


def check_groups(groups: Groups, initializer: QueryInitializer) -> None:
    """Raise ValueError if the query initialiser doesn't make what the groups take."""
    wanted = sum(groups.rows.values())
    if initializer.extra_queries != wanted:
        raise ConfigError(
            "model.query_initializer.extra_queries adds up to "
            f"{initializer.extra_queries}, but the groups in model.groups take {groups.rows}: "
            f"let it add up to {wanted}"
        )
    for name, group in groups.items():
        if group.needs_boxes and initializer.reference_size != 4:
            raise ConfigError(
                f"model.groups.{name} makes queries from boxes, but the references of "
                "model.query_initializer are points: take one whose references are boxes, such as "
                "TwoStageInitializer"
            )
