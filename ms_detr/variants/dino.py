"""DINO's query selection (arXiv:2203.03605, section 3.4)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..layers.query_position import BoxPosition
from ..layers.rows import rows_of
from ..modeling import BoxHead, ClassHead, ProposalInitializer
from ..modeling.query_initializer import Proposer
from ..structures import Memory, PredictionSet, Queries


class DINOInitializer(ProposalInitializer):
    """Anchors from the tokens with the highest score of any class; the content is learned.

    The predictions, classes included, are those of the chosen tokens alone.

    Args:
        unit_content: let the content start from N(0, 1), as Co-DINO's released code does, instead
            of by Xavier, as DINO's.
    """

    moving_positions = True

    def __init__(
        self,
        num_queries: int,
        embed_dim: int,
        class_head: ClassHead,
        box_head: BoxHead,
        anchor_size: float = 0.05,
        extra_queries: Sequence[int] = (),
        ignore_padding: bool = False,
        unit_content: bool = False,
    ):
        common = anchor_size, extra_queries, ignore_padding
        super().__init__(num_queries, embed_dim, class_head, box_head, *common)
        self.content = nn.Parameter(torch.empty(self.count(supervised=True), embed_dim))
        self.position = BoxPosition(embed_dim)
        nn.init.xavier_uniform_(self.token_projection.weight)
        if unit_content:
            nn.init.normal_(self.content)
        else:
            nn.init.xavier_uniform_(self.content)

    def select(
        self, proposer: Proposer, memory: Memory, count: int, supervised: bool
    ) -> tuple[Tensor, PredictionSet | None]:
        tokens, proposals = self.encode(proposer, memory)
        logits = proposer.class_head(tokens)
        best = self.best(logits.amax(-1), memory.grid, count)
        anchors = rows_of(proposals.logits, best)
        boxes = (proposer.box_head(rows_of(tokens, best)) + anchors).sigmoid()
        if not supervised:
            return boxes.detach(), None
        own = slice(self.num_queries)
        predictions = PredictionSet(
            rows_of(logits, best[:, own])[None],
            boxes[None, :, own],
            anchors[:, own].sigmoid(),
            layered=False,
            probability=proposer.class_head.probability,
        )
        return boxes.detach(), predictions

    def queries(self, boxes: Tensor, memory: Memory) -> Queries:
        content = self.content[: boxes.shape[1]].expand(boxes.shape[0], -1, -1)
        return Queries(content, self.position.on_first_level(memory.grid), boxes)
