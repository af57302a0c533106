"""Which query learns which object one-to-one."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import ConfigError
from ..meta_arch import OUTPUT, GeneralizedDETR
from ..structures import Predictions, PredictionSet, Targets
from ..supervision import Criterion, SupervisionTerm, Terms

TERM = "o2o"


def one_to_one_term(model: GeneralizedDETR) -> SupervisionTerm:
    """The term ``o2o``, which supervises what the model predicts.

    Raises:
        ConfigError: there is none.
    """
    term = model.criterion.terms.get(TERM)
    if term is None or term.source != OUTPUT:
        raise ConfigError(
            f"matches are those of the term '{TERM}' with the source '{OUTPUT}', which this model "
            f"lacks: it has {sorted(model.criterion.terms)}"
        )
    return term


@torch.no_grad()
def one_to_one(model: GeneralizedDETR, predictions: PredictionSet, targets: Targets) -> Tensor:
    """The object that each query of the last layer is matched with, for one image.

    Args:
        predictions: of the primary queries.

    Returns:
        (Q,) int64, G for none.

    Raises:
        ConfigError: the model has no such term.
        NonFiniteError: a matching cost is not finite.
    """
    criterion = Criterion(Terms(**{TERM: one_to_one_term(model)}))
    made = Predictions({OUTPUT: predictions}).at_least_single()
    assignment = criterion.assign(made, targets)[TERM]
    return assignment.owners(predictions.logits.shape[2])[-1, 0]
