"""Federated loss (arXiv:2103.07461, section 4.3) for data whose images aren't annotated in full.

In LVIS each image tells of some of the classes only whether they are there. So a step's class loss
counts a part of the classes alone: those of its objects, and others drawn by how frequent they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..errors import ConfigError
from ..supervision.losses import Loss, Matches, check_not_negative

Frequencies = Sequence[float] | Callable[[], Sequence[float]]


class FederatedLoss(Loss):
    """A class loss over the classes of the step's objects, and some others.

    Others are drawn without replacement, with probabilities in proportion to
    ``frequency**power``, anew in each step and for each term; all layers have the same. Each of
    several processes draws for the objects of its own images.

    Args:
        loss: of sigmoid probabilities, such as `FocalLoss`; its weight is this one's.
        frequencies: of all classes, or what returns them when the first loss is computed: in how
            many training images each is.
        num_classes: that are counted, those of the objects among them; of these never fewer.
        power: 0 draws all classes alike.

    Raises:
        ConfigError: the loss isn't one of sigmoid probabilities, or a number is out of its range.
    """

    def __init__(
        self, loss: Loss, frequencies: Frequencies, num_classes: int = 50, power: float = 0.5
    ):
        super().__init__(loss.weight)
        if loss.probability is not torch.sigmoid:
            raise ConfigError(
                f"a federated loss leaves classes out, which {type(loss).__name__} has no place "
                "for: it is for sigmoid probabilities, as FocalLoss has them"
            )
        check_not_negative(power=power)
        if num_classes < 1:
            raise ConfigError(f"a federated loss's num_classes is at least 1, got {num_classes}")
        self.loss = loss
        self.probability = loss.probability
        self.num_classes = num_classes
        self.power = power
        self._frequencies = frequencies
        self._odds: Tensor | None = None

    def __call__(self, matches: Matches) -> Tensor:
        count = matches.logits.shape[-1]
        chosen = self.choose(matches.labels[matches.labels < count], count)
        # A class's place among the chosen; background stays behind all.
        place = matches.labels.new_full((count + 1,), len(chosen))
        place[chosen] = torch.arange(len(chosen), device=chosen.device)
        return self.loss(
            replace(matches, logits=matches.logits[..., chosen], labels=place[matches.labels])
        )

    def divisor(self, matches: Matches, objects: Tensor) -> Tensor:
        return self.loss.divisor(matches, objects)

    def choose(self, labels: Tensor, count: int) -> Tensor:
        """Draw the classes that count, ascending (n,) int64.

        Args:
            labels: (m,) int64 of the objects.
            count: of all classes.
        """
        present = labels.unique()
        missing = self.num_classes - len(present)
        odds = self._odds_of(count).to(labels.device).clone()
        odds[present] = 0
        missing = min(missing, int((odds > 0).sum()))
        if missing <= 0:
            return present
        return torch.cat([present, odds.multinomial(missing)]).sort().values

    def _odds_of(self, count: int) -> Tensor:
        if self._odds is None:
            given = self._frequencies() if callable(self._frequencies) else self._frequencies
            self._odds = torch.as_tensor([float(x) for x in given]) ** self.power
        if len(self._odds) != count:
            raise ConfigError(
                f"a federated loss has the frequencies of {len(self._odds)} classes, the model "
                f"{count}: see model.num_classes"
            )
        return self._odds
