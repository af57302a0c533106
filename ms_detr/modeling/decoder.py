"""The decoder: runs its layers, refines boxes, collects what the taps hand out."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import cast

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..layers.attention import Visibility
from ..layers.boxes import refine
from ..layers.transformer import LayerContext, stack
from ..structures import (
    DECODER,
    GroupQueries,
    Memory,
    Predictions,
    PredictionSet,
    Queries,
    Source,
)
from .decoder_layer import DecoderLayer
from .groups import PRIMARY, Layout
from .heads import BoxHead, ClassHead, TapHeads

OUTPUT = ""  # of a layer, in the place of a tap's name


@dataclass(frozen=True)
class Reference:
    """Where the queries of a layer are, (B, Q, 2 or 4); the two differ in their gradient alone.

    Attributes:
        seen: what the layer looks around.
        corrected: what its heads correct.
        logits: of ``seen``, where they are kept, (B, Q, 4).
    """

    seen: Tensor
    corrected: Tensor
    logits: Tensor | None = None


@dataclass(frozen=True)
class LayerPrediction:
    """What the heads of one layer make of states (B, Q, C), classes still left to be told.

    Attributes:
        delta: correction of the reference, (B, Q, 4).
        boxes: (B, Q, 4).
    """

    class_head: ClassHead
    states: Tensor
    delta: Tensor
    boxes: Tensor


class Decoder(nn.Module):
    """``num_layers`` copies of ``layer``, each with its own class and box head.

    The heads of a layer serve its output and its taps. Only the output refines the reference
    (MS-DETR, arXiv:2401.03989, section 3; box refinement: arXiv:2010.04159, appendix A.4).

    Args:
        layer: what every layer is a copy of.
        num_layers: layers.
        class_head: what the layers' class heads are copies of.
        box_head: what their box heads are copies of.
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
        keep_logits: refine the logits of the boxes from layer to layer without the clamp, which is
            then for predictions alone (SAM-DETR).
        levels: for every layer the one level of the memory that it reads, from fine (0) to coarse;
            None: all layers read all levels.
        sources: where predictions are wanted, those of other places aside; None stands for every
            tap, for the primary queries. Taps that are not wanted are left out: a parameter that no
            loss reaches would stop distributed training. A layer's output is always predicted.

    Attributes:
        taps: of every tap that is there, the groups for whose queries it is wanted.
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
        keep_logits: bool = False,
        levels: Sequence[int] | None = None,
        sources: Collection[str | Source] | None = None,
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
        self.taps = _wanted_taps(layer.taps, sources)
        others = {} if first_layer is None else {0: first_layer.with_taps(self.taps)}
        self.layers = stack(layer.with_taps(self.taps), num_layers, others)
        for name, option in dict(
            look_forward_twice=look_forward_twice, keep_logits=keep_logits
        ).items():
            if option and not box_refinement:
                raise ConfigError(f"model.decoder.{name} needs box_refinement")

        def copies(head: nn.Module) -> nn.ModuleList:
            if share_heads or not box_refinement:
                return nn.ModuleList([head] * num_layers)
            return nn.ModuleList(copy.deepcopy(head) for _ in range(num_layers))

        def box_copies(head: nn.Module) -> nn.ModuleList:
            heads = copies(head)
            if size_bias:
                cast(BoxHead, heads[0]).set_size_bias(size_bias)
            return heads

        self.class_heads = copies(class_head)
        self.box_heads = box_copies(box_head)
        self.tap_class_heads, self.tap_box_heads = nn.ModuleDict(), nn.ModuleDict()
        for name, heads in (tap_heads or {}).items():
            if name not in layer.taps:
                raise ConfigError(
                    f"model.decoder.tap_heads: there is no tap '{name}', only {list(layer.taps)}"
                )
            if name not in self.taps:
                continue
            if heads.class_head is not None:
                self.tap_class_heads[name] = copies(heads.class_head)
            if heads.box_head is not None:
                self.tap_box_heads[name] = box_copies(heads.box_head)
        if levels is not None and len(levels) != num_layers:
            raise ConfigError(
                f"model.decoder.levels has a level for every layer, of which there are "
                f"{num_layers}, got {list(levels)}"
            )
        self.levels = None if levels is None else tuple(levels)
        self.output_norm = output_norm
        self.box_refinement = box_refinement
        self.look_forward_twice = look_forward_twice
        self.epsilon = epsilon
        self.keep_logits = keep_logits

    @property
    def tapped(self) -> frozenset[Source]:
        """Where the taps predict."""
        taps = self.taps.items()
        return frozenset(Source(DECODER, group, tap) for tap, groups in taps for group in groups)

    def forward(
        self,
        queries: Queries,
        memory: Memory,
        supervised: bool,
        groups: Mapping[str, GroupQueries] = MappingProxyType({}),
    ) -> Predictions:
        """Decode the queries.

        Args:
            supervised: predictions of all layers and taps are wanted; otherwise those of the last
                layer's output alone, and only they are computed.
            groups: more queries by the names of their groups.
        """
        found: dict[Source, PredictionSet] = {}
        for layout in Layout.passes(queries, groups):
            found |= self._decode(layout, memory, supervised)
        return Predictions(found)

    def _decode(
        self, layout: Layout, memory: Memory, supervised: bool
    ) -> dict[Source, PredictionSet]:
        """One pass."""
        queries, visibility = layout.join()
        reach = self._reach(layout) if supervised else {}
        # Contiguous, so that every order of sublayers runs the same kernels.
        content = queries.content.contiguous()
        reference = Reference(
            queries.reference,
            queries.reference,
            queries.box_logits if self.keep_logits else None,
        )
        predicted: dict[str, list[LayerPrediction]] = defaultdict(list)
        memories = self._memories(memory)
        last = len(self.layers) - 1
        for index, layer in enumerate(self.layers):
            context = _context(index, queries, content, reference.seen, memories[index], visibility)
            content, tapped = layer(content, context, reach)
            shown = {OUTPUT: content, **tapped} if supervised or index == last else {}
            for tap, states in shown.items():
                predicted[tap].append(self._predict(index, tap, states, reference))
            if self.box_refinement and index < last:
                reference = self._move(index, content, reference, predicted[OUTPUT])
        return self._by_source(predicted, layout)

    def _memories(self, memory: Memory) -> list[Memory]:
        """What each layer reads."""
        if self.levels is None:
            return [memory] * len(self.layers)
        count = len(memory.grid.level_shapes)
        if unknown := [level for level in self.levels if not 0 <= level < count]:
            raise ConfigError(
                f"model.decoder.levels has level {unknown[0]}, the memory has 0 to {count - 1}"
            )
        parts = {level: memory.level(level) for level in set(self.levels)}
        return [parts[level] for level in self.levels]

    def _reach(self, layout: Layout) -> dict[str, int]:
        """To how many of the first queries each tap has to be applied."""
        reach = {tap: sum(layout.up_to(groups).values()) for tap, groups in self.taps.items()}
        return {tap: count for tap, count in reach.items() if count}

    def _predict(
        self, index: int, tap: str, states: Tensor, reference: Reference
    ) -> LayerPrediction:
        """What a layer's heads make of the states (B, n, C) of its output or a tap."""
        class_head = _own_or_shared(self.tap_class_heads, tap, self.class_heads)[index]
        box_head = _own_or_shared(self.tap_box_heads, tap, self.box_heads)[index]
        if self.output_norm is not None:
            states = self.output_norm(states)
        delta = box_head(states)
        boxes = refine(delta, reference.corrected[:, : states.shape[1]], self.epsilon)
        return LayerPrediction(cast(ClassHead, class_head), states, delta, boxes)

    def _move(
        self, index: int, content: Tensor, reference: Reference, outputs: list[LayerPrediction]
    ) -> Reference:
        """The reference of the layer behind this one, whose output is ``content`` (B, Q, C)."""
        # The heads have seen the content already where it was shown without a norm.
        known = outputs and self.output_norm is None
        delta = outputs[-1].delta if known else self.box_heads[index](content)
        if reference.logits is None:
            logits, refined = None, refine(delta, reference.seen, self.epsilon)
        else:
            moved = reference.logits + delta
            logits, refined = moved.detach(), moved.sigmoid()
        seen = refined.detach()
        return Reference(seen, refined if self.look_forward_twice else seen, logits)

    def _by_source(
        self, predicted: Mapping[str, list[LayerPrediction]], layout: Layout
    ) -> dict[Source, PredictionSet]:
        """All layers' predictions by the tap and the group that they are of."""
        return {
            Source(DECODER, group, tap): predictions
            for tap, layers in predicted.items()
            for group, predictions in layout.split(
                _classify(layers), layout.sizes if tap == OUTPUT else self.taps[tap]
            ).items()
        }


def _wanted_taps(
    taps: Collection[str], sources: Collection[str | Source] | None
) -> dict[str, frozenset[str]]:
    """The groups that want each tap, for those that are wanted."""
    if sources is None:
        return dict.fromkeys(taps, frozenset({PRIMARY}))
    wanted = {source for source in map(Source.of, sources) if source.place == DECODER}
    unknown = sorted(str(source) for source in wanted if source.tap and source.tap not in taps)
    if unknown:
        raise ConfigError(
            f"a term in model.criterion.terms has the source {unknown[0]}, but there is no such "
            f"tap, only {list(taps)}: one in model.decoder.layer.taps adds it"
        )
    groups = {tap: frozenset(x.group for x in wanted if x.tap == tap) for tap in taps}
    return {tap: names for tap, names in groups.items() if names}


def _context(
    index: int,
    queries: Queries,
    content: Tensor,
    reference: Tensor,
    memory: Memory,
    visibility: Visibility | None,
) -> LayerContext:
    """What a layer may look at, for queries that have become ``content`` at ``reference``."""
    position, spatial = queries.position, queries.spatial
    if not isinstance(position, Tensor):
        position = position(index, reference, content)
    return LayerContext(
        position=position,
        reference=reference,
        memory=memory,
        spatial=None if spatial is None else spatial(index, reference, content, position),
        visibility=visibility,
    )


def _own_or_shared(own: nn.ModuleDict, tap: str, shared: nn.ModuleList) -> nn.ModuleList:
    return cast(nn.ModuleList, own[tap]) if tap in own else shared


def _classify(layers: list[LayerPrediction]) -> PredictionSet:
    """One layer's predictions behind the other's."""
    return PredictionSet(
        torch.stack([layer.class_head(layer.states) for layer in layers]),
        torch.stack([layer.boxes for layer in layers]),
        states=torch.stack([layer.states for layer in layers]),
        probability=layers[0].class_head.probability,
    )
