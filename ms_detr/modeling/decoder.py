"""The decoder: runs its layers, refines boxes, collects what the taps hand out."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ..layers.boxes import refine
from ..layers.transformer import LayerContext, stack
from ..structures import Memory, Predictions, PredictionSet, Queries
from .decoder_layer import DecoderLayer
from .heads import BoxHead, ClassHead

OUTPUT = "decoder"


class Decoder(nn.Module):
    """``num_layers`` copies of ``layer``, each with its own class and box head.

    The heads of a layer serve its output and its taps. Only the output refines the reference
    (MS-DETR, arXiv:2401.03989, section 3; box refinement: arXiv:2010.04159, appendix A.4).

    Args:
        epsilon: clamp of the inverse sigmoid.
        look_forward_twice: let the box loss of a layer reach the layer before it
            (DINO, arXiv:2203.03605, section 3.5).
    """

    def __init__(
        self,
        layer: DecoderLayer,
        num_layers: int,
        class_head: ClassHead,
        box_head: BoxHead,
        look_forward_twice: bool = False,
        epsilon: float = 1e-5,
    ):
        super().__init__()
        if num_layers < 1:
            raise ValueError(f"model.decoder.num_layers must be at least 1, got {num_layers}")
        self.layers = stack(layer, num_layers)
        self.class_heads = nn.ModuleList(copy.deepcopy(class_head) for _ in range(num_layers))
        self.box_heads = nn.ModuleList(copy.deepcopy(box_head) for _ in range(num_layers))
        self.look_forward_twice = look_forward_twice
        self.epsilon = epsilon

    @property
    def sources(self) -> frozenset[str]:
        """Names of the predictions that this decoder can make."""
        return frozenset({OUTPUT} | {f"{OUTPUT}.{tap}" for tap in self.layers[0].taps})

    def remove_unused_taps(self, wanted: Iterable[str]) -> None:
        """Delete the taps whose predictions are not among the ``wanted`` sources.

        Called once, when a model is put together: a parameter that no loss reaches would stop
        distributed training.
        """
        for layer in self.layers:
            for name in list(layer.taps):
                if f"{OUTPUT}.{name}" not in wanted:
                    del layer.taps[name]

    def forward(self, queries: Queries, memory: Memory, supervised: bool) -> Predictions:
        """Decode the queries.

        Args:
            supervised: predictions of all layers and taps are wanted; otherwise those of the last
                layer's output alone, and only they are computed.
        """
        taps = frozenset(self.layers[0].taps) if supervised else frozenset()
        made: dict[str, list[tuple[Tensor, Tensor]]] = {OUTPUT: []}
        made.update({f"{OUTPUT}.{name}": [] for name in taps})
        content, reference = queries.content, queries.reference
        # What a layer's heads correct; it differs from `reference` in its gradient alone.
        corrected = reference
        last = len(self.layers) - 1
        for index, layer in enumerate(self.layers):
            position = queries.position
            if not isinstance(position, Tensor):
                position = position(index, reference, content)
            context = LayerContext(position, memory.grid.scale_to_levels(reference), memory)
            content, tapped = layer(content, context, taps)
            delta = self.box_heads[index](content)
            if supervised or index == last:
                boxes = refine(delta, corrected, self.epsilon)
                made[OUTPUT].append((self.class_heads[index](content), boxes))
            for name, states in tapped.items():
                tap_boxes = refine(self.box_heads[index](states), corrected, self.epsilon)
                made[f"{OUTPUT}.{name}"].append((self.class_heads[index](states), tap_boxes))
            refined = refine(delta, reference, self.epsilon)
            reference = refined.detach()
            corrected = refined if self.look_forward_twice else reference
        return Predictions({source: _stack(layers) for source, layers in made.items()})


def _stack(layers: list[tuple[Tensor, Tensor]]) -> PredictionSet:
    logits, boxes = zip(*layers, strict=True)
    return PredictionSet(torch.stack(logits), torch.stack(boxes))
