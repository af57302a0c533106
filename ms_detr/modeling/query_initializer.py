"""Where the decoder's queries come from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..layers.position import sine_embedding
from ..layers.rows import rows_of
from ..structures import (
    ENCODER,
    Memory,
    Predictions,
    PredictionSet,
    Queries,
    Rows,
    Source,
    TokenGrid,
)
from .heads import BoxHead, ClassHead

PROPOSALS = Source(ENCODER)


@dataclass(frozen=True)
class Proposals:
    """One box proposal a token.

    Attributes:
        logits: (B, S, 4), the anchors' logits; infinite where invalid.
        valid: (B, S) bool; False for padding and for anchors at the border.
    """

    logits: Tensor
    valid: Tensor


def make_proposals(grid: TokenGrid, anchor_size: float) -> Proposals:
    """An anchor at every token's centre, twice as large on each coarser level.

    Args:
        anchor_size: width and height on the finest level, in fractions of the image.
    """
    centers = grid.centers()
    sizes = torch.cat(
        [
            centers.new_full((count,), anchor_size * 2**level)
            for level, count in enumerate(grid.level_sizes)
        ]
    )
    anchors = torch.cat((centers, sizes[:, None].expand_as(centers)), -1)
    inside = ((anchors > 0.01) & (anchors < 0.99)).all(-1)
    valid = inside & ~grid.padding_mask
    logits = torch.log(anchors / (1 - anchors))
    return Proposals(logits.masked_fill(~valid[..., None], float("inf")), valid)


class QueryInitializer(nn.Module, ABC):
    """Makes the decoder's queries.

    Args:
        extra_queries: how many query groups take in training, added up; behind the others, and
            at inference neither computed nor needed.

    Attributes:
        sources: predictions that it makes and that some term has to supervise.
        reference_size: 4 where references are boxes, 2 for points.
        moving_positions: whether the queries' position is a function, see `Queries`.
    """

    sources: frozenset[Source] = frozenset()
    reference_size = 4
    moving_positions = False

    def __init__(self, num_queries: int, embed_dim: int, extra_queries: Sequence[int] = ()):
        super().__init__()
        if num_queries < 1:
            raise ConfigError(f"model.num_queries must be at least 1, got {num_queries}")
        if any(count < 0 for count in extra_queries):
            raise ConfigError(
                "model.query_initializer.extra_queries can't be negative, "
                f"got {list(extra_queries)}"
            )
        self.num_queries = num_queries
        self.embed_dim = embed_dim
        self.extra_queries = sum(extra_queries)

    def built_with(self) -> dict[str, float]:
        """See `ms_detr.linked_keys.Linked`."""
        return {"num_queries": self.num_queries, "embed_dim": self.embed_dim}

    def rows(self) -> dict[str, Rows]:
        """See `ms_detr.structures.HasRows`; what has a row a query."""
        own, count = self.named_parameters(recurse=False), self.count(supervised=True)
        return {name: Rows.NUMBERED for name, x in own if x.dim() == 2 and len(x) == count}

    @abstractmethod
    def forward(self, memory: Memory, supervised: bool) -> tuple[Queries, Predictions]:
        """Queries for an encoded image; with ``supervised`` also the predictions behind them.

        Supervised there are `extra_queries` more, at the end.
        """

    def count(self, supervised: bool) -> int:
        """How many queries to make."""
        return self.num_queries + self.extra_queries if supervised else self.num_queries


class LearnedInitializer(QueryInitializer):
    """The same learned queries and reference points for every image: one stage.

    Deformable DETR, arXiv:2010.04159, section 4.1. The points learn through the first layer's
    attention and boxes.
    """

    reference_size = 2

    def __init__(self, num_queries: int, embed_dim: int, extra_queries: Sequence[int] = ()):
        super().__init__(num_queries, embed_dim, extra_queries)
        count = self.count(supervised=True)
        self.position = nn.Parameter(torch.randn(count, embed_dim))
        self.content = nn.Parameter(torch.randn(count, embed_dim))
        self.reference_points = nn.Linear(embed_dim, 2)
        nn.init.xavier_uniform_(self.reference_points.weight)
        nn.init.zeros_(self.reference_points.bias)

    def forward(self, memory: Memory, supervised: bool) -> tuple[Queries, Predictions]:
        """Points (B, Q, 2) as references; nothing is predicted."""
        batch, count = memory.tokens.shape[0], self.count(supervised)
        content, position = self.content[:count], self.position[:count]
        reference = self.reference_points(position).to(memory.grid.valid_ratios).sigmoid()
        content, position, reference = (
            tensor.expand(batch, -1, -1) for tensor in (content, position, reference)
        )
        return Queries(content, position, reference), Predictions({})


class Proposer(Protocol):
    """What a search for objects among the encoder's tokens learns."""

    token_projection: nn.Linear
    token_norm: nn.LayerNorm
    class_head: ClassHead
    box_head: BoxHead


class ProposalInitializer(QueryInitializer):
    """What initialisers share that look for queries among the encoder's tokens; a `Proposer`.

    Args:
        class_head, box_head: of the proposals.
        anchor_size: see :func:`make_proposals`.
        ignore_padding: choose padding only where there are too few other tokens. The published
            models have it compete, with one score for all of it: much padding and a high score,
            which training without padding doesn't lower, leave no query for the image.
    """

    sources = frozenset({PROPOSALS})  # nothing else trains the proposals' heads

    def __init__(
        self,
        num_queries: int,
        embed_dim: int,
        class_head: ClassHead,
        box_head: BoxHead,
        anchor_size: float,
        extra_queries: Sequence[int] = (),
        ignore_padding: bool = False,
    ):
        super().__init__(num_queries, embed_dim, extra_queries)
        if not 0 < anchor_size < 1:
            raise ConfigError(
                "model.query_initializer.anchor_size is a share of the image, above 0 and below 1, "
                f"got {anchor_size}"
            )
        self.anchor_size = anchor_size
        self.ignore_padding = ignore_padding
        self.token_projection = nn.Linear(embed_dim, embed_dim)
        self.token_norm = nn.LayerNorm(embed_dim)
        self.class_head = class_head
        self.box_head = box_head

    @abstractmethod
    def select(
        self, proposer: Proposer, memory: Memory, count: int, supervised: bool
    ) -> tuple[Tensor, PredictionSet | None]:
        """The best boxes (B, count, 4), fewer if there are fewer tokens, without gradient.

        Supervised also what the proposer predicts, with gradient.
        """

    @abstractmethod
    def queries(self, boxes: Tensor, memory: Memory) -> Queries:
        """Queries at the boxes (B, n, 4)."""

    def forward(self, memory: Memory, supervised: bool) -> tuple[Queries, Predictions]:
        """Choose queries; with ``supervised`` also predict."""
        boxes, proposals = self.select(self, memory, self.count(supervised), supervised)
        predictions = {} if proposals is None else {PROPOSALS: proposals}
        return self.queries(boxes, memory), Predictions(predictions)

    def best(self, scores: Tensor, grid: TokenGrid, count: int) -> Tensor:
        """Indices (B, count) of the tokens with the highest scores (B, S), fewer if there are."""
        if self.ignore_padding:
            scores = scores.masked_fill(grid.padding_mask, -float("inf"))
        return scores.topk(min(count, scores.shape[1]), 1).indices

    def encode(self, proposer: Proposer, memory: Memory) -> tuple[Tensor, Proposals]:
        """What the heads look at, (B, S, C), zeros before the projection where invalid."""
        proposals = make_proposals(memory.grid, self.anchor_size)
        tokens = memory.tokens.masked_fill(~proposals.valid[..., None], 0.0)
        return proposer.token_norm(proposer.token_projection(tokens)), proposals


class TwoStageInitializer(ProposalInitializer):
    """Queries from the encoder's best proposals (Deformable DETR, arXiv:2010.04159, A.4).

    Channel 0 of the class head is the objectness that ranks the proposals. Where an image has
    fewer tokens than ``num_queries``, all tokens become queries. Extra queries come from the
    proposals that follow.

    Args:
        mixed_selection: learn the queries' content and take only their position from the
            proposals (DINO, arXiv:2203.03605, section 3.4).
    """

    def __init__(
        self,
        num_queries: int,
        embed_dim: int,
        class_head: ClassHead,
        box_head: BoxHead,
        mixed_selection: bool = False,
        anchor_size: float = 0.05,
        extra_queries: Sequence[int] = (),
        ignore_padding: bool = False,
    ):
        common = anchor_size, extra_queries, ignore_padding
        super().__init__(num_queries, embed_dim, class_head, box_head, *common)
        self.query_projection = nn.Linear(2 * embed_dim, 2 * embed_dim)
        self.query_norm = nn.LayerNorm(2 * embed_dim)
        self.content = (
            nn.Parameter(torch.randn(self.count(supervised=True), embed_dim))
            if mixed_selection
            else None
        )
        for linear in (self.token_projection, self.query_projection):
            nn.init.xavier_uniform_(linear.weight)

    def rows(self) -> dict[str, Rows]:
        """The first row of the class head is the objectness, and no class's alone."""
        head = {f"class_head.{name}": Rows.NUMBERED for name in ("weight", "bias")}
        return super().rows() | head

    def select(
        self, proposer: Proposer, memory: Memory, count: int, supervised: bool
    ) -> tuple[Tensor, PredictionSet | None]:
        """The predictions are those of all tokens, anchors included.

        The anchors of invalid tokens are (1, 1, 1, 1), as is what is predicted from them.
        """
        tokens, proposals = self.encode(proposer, memory)
        logits = proposer.class_head(tokens)
        chosen = self.best(logits[..., 0], memory.grid, count)
        if not supervised:
            best = rows_of(tokens, chosen)
            anchors = rows_of(proposals.logits, chosen)
            return (proposer.box_head(best) + anchors).detach().sigmoid(), None
        unactivated = proposer.box_head(tokens) + proposals.logits
        predictions = PredictionSet(
            logits[None],
            unactivated.sigmoid()[None],
            anchors=proposals.logits.sigmoid(),
            layered=False,
            probability=proposer.class_head.probability,
        )
        best = rows_of(unactivated, chosen)
        return best.detach().sigmoid(), predictions

    def queries(self, boxes: Tensor, memory: Memory) -> Queries:
        position, content = self._encode(boxes)
        if self.content is not None:
            content = self.content[: boxes.shape[1]].expand_as(position)
        return Queries(content, position, boxes, position_of=lambda boxes: self._encode(boxes)[0])

    def _encode(self, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Position and content (B, n, C) of boxes (B, n, 4)."""
        # Boxes keep the grid's precision; what is learned here may have half of it.
        encoded = sine_embedding(boxes, self.embed_dim // 2).to(self.query_norm.weight.dtype)
        position, content = self.query_norm(self.query_projection(encoded)).chunk(2, -1)
        return position, content
