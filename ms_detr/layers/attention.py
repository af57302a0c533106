"""Attention among queries that do not all see each other."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import ConfigError


@dataclass(frozen=True)
class Run:
    """Neighbouring blocks of one size that see themselves, not each other, and the same others.

    Attributes:
        start: the first query.
        size: queries of a block.
        count: blocks.
        others: (start, stop) of the blocks outside that all of them see.
    """

    start: int
    size: int
    count: int
    others: tuple[tuple[int, int], ...]

    @property
    def rows(self) -> slice:
        """The run's queries."""
        return slice(self.start, self.start + self.count * self.size)

    def seen(self, x: Tensor) -> Tensor:
        """What any of the run sees of (B, heads, Q, d): the others, then the run itself."""
        spans = [(self.rows.start, self.rows.stop)]
        for start, stop in reversed(self.others):
            first, last = spans[0]
            # Neighbours need no copy.
            spans[:1] = [(start, last)] if stop == first else [(start, stop), (first, last)]
        return _join([x[:, :, start:stop] for start, stop in spans])

    def mask(self, device: torch.device, hidden: Tensor | None = None) -> Tensor | None:
        """True where a row sees a column of `seen`, for SDPA; None if all see all.

        Args:
            hidden: (B, Q) bool, queries that none but themselves see.
        """
        if self.count == 1 and hidden is None:
            return None
        row = torch.arange(self.count * self.size, device=device)
        block = row // self.size
        others = sum(stop - start for start, stop in self.others)
        mask = F.pad(block[:, None] == block, (others, 0), value=True)
        if hidden is None:
            return mask
        itself = F.pad(row[:, None] == row, (others, 0), value=False)
        shown = ~self.seen(hidden[:, None, :, None]).mT
        return mask & (shown | itself)


def _join(parts: list[Tensor]) -> Tensor:
    """One behind the other along the queries, (B, heads, Q, d)."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, 2)


@dataclass(frozen=True)
class Visibility:
    """Which queries see which in self-attention, by blocks of consecutive queries.

    Attributes:
        sizes: queries of every block, at least one.
        sees: a row a block, True where it sees the column's block; every block sees itself.
        hidden: (B, Q) bool or None; queries that none but themselves see, whatever the blocks are.
        runs: the blocks by what can be computed in one call, in order.
    """

    sizes: tuple[int, ...]
    sees: tuple[tuple[bool, ...], ...]
    hidden: Tensor | None = field(default=None, repr=False, compare=False)
    runs: tuple[Run, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        count = len(self.sizes)
        if len(self.sees) != count or any(len(row) != count for row in self.sees):
            raise ConfigError(f"visibility of {count} blocks is {count} rows of {count}")
        if not all(self.sees[block][block] for block in range(count)):
            raise ConfigError("a block of queries has to see itself: attention to nothing is NaN")
        if min(self.sizes) < 1:
            raise ConfigError(f"leave out blocks without queries, got sizes {self.sizes}")
        object.__setattr__(self, "runs", _runs(self.sizes, self.sees))

    @classmethod
    def around(
        cls, primary: int, blocks: Sequence[tuple[int, bool]], hidden: Tensor | None = None
    ) -> Visibility | None:
        """Primary queries and blocks that nobody else sees; None if all see all.

        Args:
            primary: how many come first and see themselves; 0 if there are none.
            blocks: how many queries, and whether they see the primary ones besides themselves.
            hidden: (B, Q) bool, which of all these queries none but themselves see.
        """
        every = ((primary, True), *blocks)
        sizes = tuple(size for size, _ in every if size)
        sees_first = tuple(sees and primary > 0 for size, sees in every if size)
        if len(sizes) == 1 and hidden is None:
            return None
        count = range(len(sizes))
        return cls(
            sizes,
            tuple(tuple(i == j or (j == 0 and sees_first[i]) for j in count) for i in count),
            hidden,
        )

    def mask(self, device: torch.device | None = None) -> Tensor:
        """(Q, Q) bool, True where by its block the query of the row sees that of the column."""
        sizes = torch.tensor(self.sizes, device=device)
        sees = torch.tensor(self.sees, device=device)
        return sees.repeat_interleave(sizes, 0).repeat_interleave(sizes, 1)


def _runs(sizes: tuple[int, ...], sees: tuple[tuple[bool, ...], ...]) -> tuple[Run, ...]:
    stops = tuple(itertools.accumulate(sizes))
    spans = tuple(zip((0, *stops), stops, strict=False))
    runs: list[Run] = []
    for block, (size, row) in enumerate(zip(sizes, sees, strict=True)):
        others = tuple(spans[j] for j, seen in enumerate(row) if seen and j != block)
        if runs and (runs[-1].size, runs[-1].others) == (size, others):
            runs[-1] = replace(runs[-1], count=runs[-1].count + 1)
        else:
            runs.append(Run(spans[block][0], size, 1, others))
    return tuple(runs)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    visibility: Visibility | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Scaled dot-product attention of (B, heads, Q, d); with a visibility block by block.

    What no query sees is not computed where whole blocks allow it: ``ms-detr benchmark groups``
    compares with one dense mask.
    """
    if visibility is None:
        return F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
    hidden = visibility.hidden
    return _join([_attend(query, key, value, run, hidden, dropout) for run in visibility.runs])


def _attend(
    query: Tensor, key: Tensor, value: Tensor, run: Run, hidden: Tensor | None, dropout: float
) -> Tensor:
    """The rows of a run, (B, heads, count * size, d)."""
    query, key, value = query[:, :, run.rows], run.seen(key), run.seen(value)
    if run.others or hidden is not None:
        mask = run.mask(query.device, hidden)
        return F.scaled_dot_product_attention(query, key, value, mask, dropout)
    # Blocks that see nothing else are images of their own.
    query, key, value = (
        x.unflatten(2, (run.count, run.size)).transpose(1, 2).flatten(0, 1)
        for x in (query, key, value)
    )
    out = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
    return out.unflatten(0, (-1, run.count)).transpose(1, 2).flatten(2, 3)
