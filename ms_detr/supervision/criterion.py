"""The criterion: all supervision of a training step."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import ConfigError, NonFiniteError
from ..structures import Assignment, CountedLosses, Predictions, PredictionSet, Source, Targets
from .objects import count_objects
from .term import SupervisionTerm


class Terms(dict[str, SupervisionTerm]):
    """Supervision terms by name; None drops one."""

    def __init__(self, **terms: SupervisionTerm | None):
        super().__init__({name: term for name, term in terms.items() if term is not None})


class Criterion(nn.Module):
    """Sum of independent supervision terms."""

    def __init__(self, terms: Terms):
        super().__init__()
        if not terms:
            raise ConfigError("model.criterion.terms is empty: a model needs supervision")
        self.terms = terms

    @property
    def sources(self) -> frozenset[Source]:
        """Where the predictions come from that the terms need."""
        return frozenset(term.source for term in self.terms.values())

    def without_groups(self, names: Collection[str]) -> Criterion:
        """The same without the terms that supervise a group of these names."""
        kept = {name: term for name, term in self.terms.items() if term.source.group not in names}
        return Criterion(Terms(**kept))

    @property
    def supervises_masks(self) -> bool:
        """Whether a term has losses of masks."""
        return any(term.mask_points is not None for term in self.terms.values())

    def forward(
        self, predictions: Predictions | Mapping[str, PredictionSet], targets: Targets
    ) -> CountedLosses:
        """All losses, weighted: ``{term}/loss_{name}/{layer}`` -> scalar.

        Losses are divided by N+, the objects of the batch over all processes, at least one, per
        process (MS-DETR's published code), unless term or loss counts otherwise. So processes
        train together as one would with all their images, also where there are fewer objects than
        processes; published code has at least one object a process there. What has to be counted by
        the predictions is this process's alone.

        Raises:
            KeyError: if a term's source was not predicted.
            NonFiniteError: if a matching cost is not finite; names term, layer and image.
        """
        if not isinstance(predictions, Predictions):
            predictions = Predictions(predictions)
        predictions = predictions.at_least_single()
        return self.losses(predictions, targets, self.assign(predictions, targets))

    def losses(
        self, predictions: Predictions, targets: Targets, assignments: Mapping[str, Assignment]
    ) -> CountedLosses:
        """What a call returns, of predictions in single precision and what `assign` has found."""
        with torch.no_grad():
            objects = count_objects(targets)
        found = CountedLosses()
        with in_full_precision(targets):
            for name, term in self.terms.items():
                source = predictions[term.source]
                found.add(term.compute(source, targets, assignments[name], objects), f"{name}/")
        found.add(predictions.losses)
        return found

    @torch.no_grad()
    def assign(self, predictions: Predictions, targets: Targets) -> dict[str, Assignment]:
        """Which queries learn which objects, by term; raises as a call does."""
        with in_full_precision(targets):
            return self._assign(predictions, targets)

    def _assign(self, predictions: Predictions, targets: Targets) -> dict[str, Assignment]:
        sources = {name: predictions[term.source] for name, term in self.terms.items()}
        costs = {
            name: term.assigner.host_costs(sources[name], targets)
            for name, term in self.terms.items()
        }
        host = to_host({name: cost for name, cost in costs.items() if cost is not None})
        for name, cost in host.items():
            _check_finite(name, cost)
        assignments = {
            name: term.assigner.assign(sources[name], targets, host.get(name))
            for name, term in self.terms.items()
        }
        combined = {
            name: term.assigner.combine(assignments[name], sources[name], assignments)
            for name, term in self.terms.items()
        }
        return {name: found.without(sources[name].ignored) for name, found in combined.items()}


def in_full_precision(targets: Targets) -> torch.autocast:
    """A context without autocast: matching and losses would have half the digits."""
    return torch.autocast(targets.boxes.device.type, enabled=False)


def to_host(tensors: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """Copy tensors to the host in one transfer."""
    if not tensors:
        return {}
    flat = torch.cat([tensor.flatten() for tensor in tensors.values()]).cpu()
    parts = flat.split([tensor.numel() for tensor in tensors.values()])
    return {
        name: part.view(tensor.shape).numpy()
        for (name, tensor), part in zip(tensors.items(), parts, strict=True)
    }


def _check_finite(term: str, cost: np.ndarray) -> None:
    finite = np.isfinite(cost)
    if not finite.all():
        layer, image = np.argwhere(~finite)[0, :2]
        raise NonFiniteError(
            f"matching cost of term '{term}' is not finite in layer {layer}, image {image} of the "
            "batch: the model's predictions there are NaN or infinite"
        )
