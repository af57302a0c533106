"""Losses, and what they are divided by."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from torch import Tensor

NOTHING: Mapping[str, Tensor] = MappingProxyType({})


class CountedLosses(dict[str, Tensor]):
    """Weighted scalars by name, of which some are divided by what this process alone counts.

    Such a loss is a sum over ``max(count, 1)``. Several processes train together as one would where
    their mean takes the count's place, which nobody knows before all have made their predictions:
    see `counted_as`. Whoever is alone takes the losses as they are.

    Attributes:
        counts: by the names of those losses, scalars without gradients.
    """

    def __init__(
        self, losses: Mapping[str, Tensor] = NOTHING, counts: Mapping[str, Tensor] = NOTHING
    ):
        super().__init__(losses)
        self.counts = dict(counts)

    def add(self, others: Mapping[str, Tensor], prefix: str = "") -> None:
        """Take over losses, and what they count, by their names behind a prefix."""
        self.update({prefix + name: loss for name, loss in others.items()})
        if isinstance(others, CountedLosses):
            self.counts |= {prefix + name: count for name, count in others.counts.items()}

    def counted_as(self, counts: Mapping[str, Tensor]) -> CountedLosses:
        """The same losses with other counts, of all that are counted."""
        found = CountedLosses(self, counts)
        for name, count in counts.items():
            found[name] = self[name] * (self.counts[name].clamp(min=1) / count.clamp(min=1))
        return found
