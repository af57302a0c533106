"""One key, many parts: a model's own keys against what its parts were built with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from torch import nn

from .auxiliary import Auxiliary
from .errors import ConfigError
from .layers.semantics_aligner import SemanticsAligner
from .modeling import Decoder, Groups, Neck, QueryInitializer, SingleScaleNeck
from .structures import Source
from .supervision import Criterion


@runtime_checkable
class Linked(Protocol):
    """A module that tells what it was built with, by the names of the model's keys."""

    def built_with(self) -> dict[str, float]:
        """The values."""


def check_linked_keys(
    model: nn.Module, shared: Mapping[str, float], own: Mapping[str, float]
) -> None:
    """Raise ConfigError if a model's keys aren't what its parts were built with.

    What a backbone is made of is its own matter.

    Args:
        shared: keys whose value every part has to have.
        own: keys whose value a part may replace by one of its own, but not all of them.
    """
    found: dict[str, set[float]] = {key: set() for key in own}
    for name, part in model.named_modules():
        if name.startswith("backbone.") or not isinstance(part, Linked):
            continue
        for key, value in part.built_with().items():
            if key in own:
                found[key].add(value)
            elif value != shared.get(key, value):
                raise ConfigError(
                    f"model.{key} is {shared[key]}, but the {type(part).__name__} that has become "
                    f"model.{name} was built with {value}: link it with '${{model.{key}}}'"
                )
    for key, values in found.items():
        if values and own[key] not in values:
            raise ConfigError(
                f"model.{key} is {own[key]}, but nothing was built with it, only with "
                f"{sorted(values)}: link parts with '${{model.{key}}}', or set it to their value"
            )


def check_backbone(part: str, wanted: Mapping[str, int], offered: Mapping[str, int]) -> None:
    """Raise ConfigError if a part reads other maps than the backbone offers (channels by name)."""
    for name, channels in wanted.items():
        if name not in offered:
            raise ConfigError(
                f"{part}.in_channels reads '{name}', the backbone offers {dict(offered)}: see "
                "model.backbone.out_features"
            )
        if offered[name] != channels:
            fitting = ",".join(f"{x}:{offered.get(x, wanted[x])}" for x in wanted)
            raise ConfigError(
                f"{part}.in_channels wants {channels} channels of '{name}', the backbone offers "
                f"{dict(offered)}: '{part}.in_channels={{{fitting}}}' fits it"
            )


def check_fine_to_coarse(strides: Mapping[str, int]) -> None:
    """Raise ConfigError if the neck's maps (strides by name) are not in order."""
    if list(strides.values()) != sorted(strides.values()):
        raise ConfigError(
            f"model.neck.in_channels must name maps from fine to coarse, got {dict(strides)}"
        )


def check_references(decoder: Decoder, initializer: QueryInitializer) -> None:
    """Raise ConfigError if a decoder that keeps boxes as logits starts from points."""
    if decoder.keep_logits and initializer.reference_size != 4:
        raise ConfigError(
            "model.decoder.keep_logits keeps the logits of boxes, but the references of "
            "model.query_initializer are points: set it to false, or take one whose references "
            "are boxes, such as BoxInitializer"
        )


def check_padding(neck: Neck | SingleScaleNeck, decoder: Decoder) -> None:
    """Raise ConfigError if padding is to be left out, and a part of the decoder reads it."""
    if not (isinstance(neck, Neck) and neck.ignore_padding):
        return
    for name, part in decoder.named_modules():
        if isinstance(part, SemanticsAligner):
            raise ConfigError(
                "model.neck.ignore_padding leaves padding out, but the SemanticsAligner that has "
                f"become model.decoder.{name} reads the map around a box, padding included: set "
                "the key to false"
            )


def check_groups(
    groups: Groups, initializer: QueryInitializer, auxiliary: Auxiliary | None = None
) -> None:
    """Raise ConfigError if initialiser and auxiliary heads don't make what the groups take."""
    wanted = sum(groups.extra_queries.values())
    if initializer.extra_queries != wanted:
        raise ConfigError(
            "model.query_initializer.extra_queries adds up to "
            f"{initializer.extra_queries}, but the groups in model.groups take "
            f"{groups.extra_queries}: let it add up to {wanted}"
        )
    for name, group in groups.items():
        if group.needs_boxes and initializer.reference_size != 4:
            raise ConfigError(
                f"model.groups.{name} makes queries from boxes, but the references of "
                "model.query_initializer are points: take one whose references are boxes, such as "
                "TwoStageInitializer"
            )
        heads = [] if auxiliary is None else list(auxiliary.heads)
        if group.head is not None and group.head not in heads:
            raise ConfigError(
                f"model.groups.{name} makes queries of what the auxiliary head '{group.head}' "
                f"finds, and model.auxiliary.heads has {heads}: add the head, or set "
                f"model.groups.{name}=null"
            )


def check_auxiliary(auxiliary: Auxiliary | None, levels: int, evaluate_head: str | None) -> None:
    """Raise ConfigError if auxiliary heads have too few levels, or one isn't there to evaluate."""
    if auxiliary is not None and levels < 2:
        raise ConfigError(
            "model.auxiliary has heads for several scales, the encoder of this model has one: set "
            "model.auxiliary=null, or take a host with several, such as Deformable DETR"
        )
    heads = [] if auxiliary is None else list(auxiliary.heads)
    if evaluate_head is not None and evaluate_head not in heads:
        raise ConfigError(f"model.evaluate_head={evaluate_head}: model.auxiliary.heads has {heads}")


def check_sources(
    criterion: Criterion, tapped: frozenset[Source], required: frozenset[Source]
) -> None:
    """Raise ConfigError if a term wants what isn't predicted, or what is predicted isn't trained.

    Args:
        tapped: what the decoder's taps predict.
        required: what else is predicted.
    """
    predicted = sorted(map(str, tapped | required))
    for name, term in criterion.terms.items():
        if term.source not in tapped | required:
            raise ConfigError(
                f"model.criterion.terms.{name}.source is '{term.source}', but this model predicts "
                f"{predicted}; a tap in model.decoder.layer.taps or a group in model.groups adds "
                "one (model.decoder.sources follows the terms unless it is set)"
            )
    untrained = sorted(map(str, required - criterion.sources))
    if untrained:
        raise ConfigError(
            f"no term in model.criterion.terms has the source {untrained}: what inference needs "
            "there, or a group's queries, would not be trained"
        )
    unused = sorted(map(str, tapped - criterion.sources))
    if unused:
        raise ConfigError(
            f"no term in model.criterion.terms has the source {unused}, of a tap: drop the tap, or "
            "leave it out of model.decoder.sources"
        )
