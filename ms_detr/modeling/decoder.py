"""The decoder: runs its layers, refines boxes, collects what the taps hand out."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import cast

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..layers.boxes import refine
from ..layers.transformer import LayerContext, stack
from ..structures import (
    GroupQueries,
    Memory,
    PositionFunction,
    Predictions,
    PredictionSet,
    Queries,
)
from .decoder_layer import DecoderLayer
from .groups import join, split
from .heads import BoxHead, ClassHead, TapHeads

OUTPUT = "decoder"


class Decoder(nn.Module):
    """``num_layers`` copies of ``layer``, each with its own class and box head.

    The heads of a layer serve its output and its taps. Only the output refines the reference
    (MS-DETR, arXiv:2401.03989, section 3; box refinement: arXiv:2010.04159, appendix A.4).

    Args:
        tap_heads: taps with heads of their own.
        box_refinement: correct the boxes of the layer before; otherwise every layer corrects the
            first reference, with heads that all layers share.
        size_bias: where the first box head's width and height start, as logits; references that
            are points leave the size to it (Deformable DETR: -2).
        epsilon: clamp of the inverse sigmoid.
        look_forward_twice: let the box loss of a layer reach the layer before it
            (DINO, arXiv:2203.03605, section 3.5).
        share_heads: one class and one box head for all layers, with box refinement too.
        output_norm: between a layer's or a tap's states and the heads of their predictions. The
            reference is refined by the same box head, from the states without it.
        first_layer: the first layer where it has other parts than the rest, the taps excepted.
    """

    def __init__(
        self,
        layer: DecoderLayer,
        num_layers: int,
        class_head: ClassHead,
        box_head: BoxHead,
        tap_heads: TapHeads | None = None,
        box_refinement: bool = True,
        look_forward_twice: bool = False,
        epsilon: float = 1e-5,
        size_bias: float = 0.0,
        share_heads: bool = False,
        output_norm: nn.Module | None = None,
        first_layer: DecoderLayer | None = None,
    ):
        super().__init__()
        if num_layers < 1:
            raise ConfigError(f"model.decoder.num_layers must be at least 1, got {num_layers}")
        if not 0 < epsilon < 0.5:
            raise ConfigError(f"model.decoder.epsilon must be above 0 and below 0.5, got {epsilon}")
        if first_layer is not None and set(first_layer.taps) != set(layer.taps):
            raise ConfigError(
                f"model.decoder.first_layer has the taps {sorted(first_layer.taps)}, "
                f"the other layers have {sorted(layer.taps)}"
            )
        self.layers = stack(layer, num_layers, first_layer)
        if look_forward_twice and not box_refinement:
            raise ConfigError("model.decoder.look_forward_twice needs box_refinement")

        def copies(head: nn.Module) -> nn.ModuleList:
            if share_heads or not box_refinement:
                return nn.ModuleList([head] * num_layers)
            return nn.ModuleList(copy.deepcopy(head) for _ in range(num_layers))

        self.class_heads = copies(class_head)
        self.box_heads = copies(box_head)
        cast(BoxHead, self.box_heads[0]).set_size_bias(size_bias)
        self.tap_class_heads, self.tap_box_heads = nn.ModuleDict(), nn.ModuleDict()
        for name, heads in (tap_heads or {}).items():
            if name not in layer.taps:
                raise ConfigError(
                    f"model.decoder.tap_heads: there is no tap '{name}', only {list(layer.taps)}"
                )
            if heads.class_head is not None:
                self.tap_class_heads[name] = copies(heads.class_head)
            if heads.box_head is not None:
                self.tap_box_heads[name] = copies(heads.box_head)
        self.output_norm = output_norm if output_norm is not None else nn.Identity()
        self.box_refinement = box_refinement
        self.look_forward_twice = look_forward_twice
        self.epsilon = epsilon

    @property
    def sources(self) -> frozenset[str]:
        """Names of the predictions that this decoder can make."""
        return frozenset({OUTPUT} | {f"{OUTPUT}.{tap}" for tap in self.layers[0].taps})

    def remove_unused_taps(self, wanted: Collection[str]) -> None:
        """Delete the taps whose predictions, a group's included, are not ``wanted`` sources.

        Called once, when a model is put together: a parameter that no loss reaches would stop
        distributed training.
        """
        unused = [
            name
            for name in self.layers[0].taps
            if not any(f".{source}".endswith(f".{OUTPUT}.{name}") for source in wanted)
        ]
        for name in unused:
            for layer in self.layers:
                del layer.taps[name]
            for heads in (self.tap_class_heads, self.tap_box_heads):
                if name in heads:
                    del heads[name]

    def forward(
        self,
        queries: Queries,
        memory: Memory,
        supervised: bool,
        groups: Mapping[str, GroupQueries] = MappingProxyType({}),
        wanted: Collection[str] = (),
    ) -> Predictions:
        """Decode the queries.

        Args:
            supervised: predictions of all layers and taps are wanted; otherwise those of the last
                layer's output alone, and only they are computed.
            groups: more queries by the names of their groups, whose predictions are named
                ``{group}.decoder``.
            wanted: sources that terms need. Taps predict for the groups, as
                ``{group}.decoder.{tap}``, where one of them is named.
        """
        primary = queries.count
        queries, visibility = join(queries, groups)
        taps = {}
        if supervised:
            for name in self.layers[0].taps:
                tapped_groups = {f"{group}.{OUTPUT}.{name}" for group in groups}
                taps[name] = primary if tapped_groups.isdisjoint(wanted) else queries.count
        made: dict[str, list[tuple[ClassHead, Tensor, Tensor]]] = {OUTPUT: []}
        made.update({f"{OUTPUT}.{name}": [] for name in taps})
        # Contiguous, so that every order of sublayers runs the same kernels.
        content, reference = queries.content.contiguous(), queries.reference
        # What a layer's heads correct; it differs from `reference` in its gradient alone.
        corrected = reference
        last = len(self.layers) - 1
        for index, layer in enumerate(self.layers):
            context = LayerContext(
                position=_in_layer(queries.position, index, reference, content),
                reference=memory.grid.scale_to_levels(reference),
                memory=memory,
                spatial=_in_layer(queries.spatial, index, reference, content),
                visibility=visibility,
            )
            content, tapped = layer(content, context, taps)
            shown = supervised or index == last
            states = self.output_norm(content) if shown else content
            delta = self.box_heads[index](states)
            if shown:
                boxes = refine(delta, corrected, self.epsilon)
                class_head = cast(ClassHead, self.class_heads[index])
                made[OUTPUT].append((class_head, states, boxes))
            for name, tap_states in tapped.items():
                class_head, box_head = self._heads_of(name, index)
                tap_states = self.output_norm(tap_states)
                tap_boxes = refine(box_head(tap_states), corrected[:, : taps[name]], self.epsilon)
                made[f"{OUTPUT}.{name}"].append((class_head, tap_states, tap_boxes))
            if self.box_refinement and index < last:
                if states is not content:
                    delta = self.box_heads[index](content)
                refined = refine(delta, reference, self.epsilon)
                reference = refined.detach()
                corrected = refined if self.look_forward_twice else reference
        predictions = Predictions({source: _classify(layers) for source, layers in made.items()})
        return split(predictions, primary, groups)

    def _heads_of(self, tap: str, index: int) -> tuple[ClassHead, BoxHead]:
        """Class and box head of a tap in a layer: its own, or those of the output."""
        return (
            cast(ClassHead, _own_or_shared(self.tap_class_heads, tap, self.class_heads)[index]),
            cast(BoxHead, _own_or_shared(self.tap_box_heads, tap, self.box_heads)[index]),
        )


def _in_layer(
    position: Tensor | PositionFunction | None, index: int, reference: Tensor, content: Tensor
) -> Tensor | None:
    """A position as it is in one layer."""
    return position(index, reference, content) if callable(position) else position


def _own_or_shared(own: nn.ModuleDict, tap: str, shared: nn.ModuleList) -> nn.ModuleList:
    return cast(nn.ModuleList, own[tap]) if tap in own else shared


def _classify(layers: list[tuple[ClassHead, Tensor, Tensor]]) -> PredictionSet:
    """All layers' predictions, from their class heads, states and boxes."""
    heads, states, boxes = zip(*layers, strict=True)
    logits = torch.stack([head(x) for head, x in zip(heads, states, strict=True)])
    return PredictionSet(
        logits,
        torch.stack(boxes),
        states=torch.stack(states),
        probability=heads[0].probability,
    )
