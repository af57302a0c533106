"""Where a query group's positive queries lie, beside the primary ones: Co-DETR's Fig. 7."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError, DataError
from ..evaluation import evaluating
from ..meta_arch import OUTPUT, GeneralizedDETR
from ..modeling.groups import PRIMARY
from ..structures import DECODER, Source, Targets
from ..supervision import Criterion, Terms
from .matching import TERM, one_to_one_term
from .samples import Sample


@dataclass(frozen=True)
class Placed:
    """Queries and the objects that they learn.

    Attributes:
        points: centres of the references, (n, 2) as (x, y) in fractions of the file's image.
        objects: (n,) int64, the number of objects for none.
    """

    points: Tensor
    objects: Tensor


@dataclass(frozen=True)
class QueryPlaces:
    """The queries of one image.

    Attributes:
        primary: all primary queries, by the one-to-one matching of the last layer.
        groups: the positive queries of every group, by its name.
        count: objects.
    """

    primary: Placed
    groups: dict[str, Placed]
    count: int


@contextmanager
def _drawn_alike() -> Iterator[None]:
    """Let groups draw the same noise, whatever was drawn before."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def query_places(model: GeneralizedDETR, sample: Sample) -> QueryPlaces:
    """Where the queries of an image start, and what those of the last layer learn.

    A group's positive queries are those that its term assigns an object to, known or matched.
    Where the group has targets of its own, an object is the image's of its class and nearest box.

    Raises:
        ConfigError: the model has no query groups, or no term ``o2o``.
    """
    if not model.groups:
        raise ConfigError(
            "queries of groups are compared with the primary ones, and this model has none: take "
            "one with model.groups, such as positive queries of an auxiliary head, or denoising"
        )
    terms = {TERM: one_to_one_term(model)}
    sources = {name: Source(DECODER, name) for name in model.groups}
    for name, term in model.criterion.terms.items():
        if term.source in sources.values():
            terms.setdefault(name, term)
    references: dict[str, Tensor] = {}

    def watch(_: nn.Module, arguments: tuple[Any, ...]) -> None:
        queries, _memory, _supervised, groups = arguments
        references[PRIMARY] = queries.reference[0, :, :2]
        references.update({name: x.queries.reference[0, :, :2] for name, x in groups.items()})

    handle = model.decoder.register_forward_pre_hook(watch)
    try:
        with evaluating(model), _drawn_alike():
            made = model.forward_tensors(sample.pixels, sample.padding_mask, sample.targets)
            assigned = Criterion(Terms(**terms)).assign(made.at_least_single(), sample.targets)
    finally:
        handle.remove()
    found = {}
    shares = [part / whole for part, whole in zip(sample.size, sample.whole, strict=True)]
    for name, term in terms.items():
        owners = assigned[name].owners(made[term.source].logits.shape[2])[-1, 0]
        own = made[term.source].targets
        if own is not None:
            owners = _objects_of(own, sample.targets, owners)
        points = references[term.source.group].double()
        points = points / points.new_tensor(shares[::-1])
        found[term.source] = Placed(points.cpu(), owners.cpu())
    count = sample.targets.labels.shape[1]
    groups = {
        name: Placed(x.points[x.objects < count], x.objects[x.objects < count])
        for name, source in sources.items()
        for x in (found[source],)
    }
    return QueryPlaces(found[OUTPUT], groups, count)


def _objects_of(own: Targets, targets: Targets, owners: Tensor) -> Tensor:
    """Objects (Q,) among a group's own targets as those of the image; none stays none."""
    count = targets.labels.shape[1]
    if not count:
        return torch.zeros_like(owners)
    distance = torch.cdist(own.boxes[0], targets.boxes[0].to(own.boxes), p=1)
    other = own.labels[0][:, None] != targets.labels[0]
    nearest = (distance + 8 * other).argmin(1)  # boxes inside the image differ by less
    return torch.cat([nearest, nearest.new_tensor([count])])[owners]


class QueryDistances:
    """Mean distances of groups' positive queries to the primary ones.

    Each positive query is compared with the primary query that is matched with its object, and
    with all that are matched with none. Every positive query of all images counts alike.

    Attributes:
        images: those that were added.
    """

    note = (
        "Distances between the centres of the references that the decoder starts from, in "
        "diagonals of the image: of a group's positive queries to the primary query that is "
        "matched with the same object in the last layer, and to all primary queries without an "
        "object. Co-DETR's Fig. 7 isn't published in more detail: which points, and what they are "
        "divided by, is chosen here. Whatever groups draw comes from one seed."
    )

    def __init__(self) -> None:
        self.images = 0
        self._counts: dict[str, int] = {}
        self._sums: dict[str, Tensor] = {}

    def add(self, places: QueryPlaces, size: tuple[int, int]) -> None:
        """Count an image of so many pixels (h, w)."""
        self.images += 1
        height, width = size
        unit = torch.tensor([width, height]).double() / (width**2 + height**2) ** 0.5
        primary, none = places.primary, places.primary.objects == places.count
        unmatched = primary.points[none] * unit
        matched = torch.full((places.count + 1, 2), torch.nan, dtype=torch.float64)
        matched[primary.objects[~none]] = primary.points[~none] * unit
        for name, group in places.groups.items():
            self._counts.setdefault(name, 0)
            self._sums.setdefault(name, torch.zeros(2, dtype=torch.float64))
            partners = matched[group.objects]
            there = ~partners.isnan().any(1)  # more objects than queries leave some without
            if not (there.any() and len(unmatched)):
                continue
            points = group.points[there] * unit
            near = (points - partners[there]).norm(dim=1).sum()
            far = torch.cdist(points, unmatched).mean(1).sum()
            self._counts[name] += len(points)
            self._sums[name] += torch.stack((near, far))

    def means(self) -> dict[str, tuple[int, float, float]]:
        """Of every group the positive queries, and their distances to matched and unmatched ones.

        Raises:
            DataError: a group had none.
        """
        for name, count in self._counts.items():
            if not count:
                raise DataError(
                    f"the group '{name}' has no positive query in {self.images} images: take more "
                    "images, or others"
                )
        means = {name: (self._sums[name] / n).tolist() for name, n in self._counts.items()}
        return {name: (self._counts[name], near, far) for name, (near, far) in means.items()}
