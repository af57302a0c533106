"""How far the heads of one model disagree about where objects are: Co-DETR's conflict analysis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from ..auxiliary import AuxiliaryHead
from ..errors import ConfigError, DataError
from ..evaluation import evaluating
from ..meta_arch import OUTPUT, GeneralizedDETR
from ..structures import DECODER, Memory, TokenGrid
from .maps import resized, unpadded
from .samples import Sample

EPSILON = 1e-6
# A head's class score of one image's memory, to be differentiated: a scalar.
ClassScore = Callable[[Memory], Tensor]


def class_scores(model: GeneralizedDETR, sample: Sample) -> dict[str, ClassScore]:
    """The class scores of a model's heads by name, the decoder's first.

    Each is the sum, over the classes in the image, of the largest logit that the head gives it.

    Raises:
        ConfigError: the decoder is the model's only head.
    """
    auxiliary = model.auxiliary
    if auxiliary is None:
        raise ConfigError(
            "heads of one model are compared, and this one has its decoder alone: take a model "
            "with model.auxiliary"
        )
    classes = sample.classes

    def decoder(memory: Memory) -> Tensor:
        queries, _ = model.query_initializer(memory, False)
        logits = model.decoder(queries, memory, False)[OUTPUT].logits[-1, 0]
        return logits[:, classes].amax(0).sum()

    def score_of(head: AuxiliaryHead) -> ClassScore:
        def score(memory: Memory) -> Tensor:
            pyramid = auxiliary.pyramid(memory, model.strides, sample.padding_mask)
            return head.class_score(pyramid, classes)

        return score

    heads = {name: score_of(cast(AuxiliaryHead, head)) for name, head in auxiliary.heads.items()}
    return {DECODER: decoder, **heads}


def class_activation(tokens: Tensor, gradient: Tensor, grid: TokenGrid) -> Tensor:
    """Grad-CAM (arXiv:1610.02391, Eqs. 1 and 2) on the encoder's levels, for one image.

    Channels are weighted by their mean gradient on a level, padding left out; levels are resized to
    the finest one and averaged.

    Args:
        tokens, gradient: (1, S, C).

    Returns:
        (h, w) of at least 0 on the finest level without padding, on the host.
    """
    levels = []
    for features, slopes in zip(unpadded(grid, tokens), unpadded(grid, gradient), strict=True):
        levels.append((features @ slopes.mean((0, 1))).relu())
    height, width = levels[0].shape
    return torch.stack([resized(level, (height, width)) for level in levels]).mean(0)


def distribution(activation: Tensor, epsilon: float = EPSILON) -> Tensor:
    """A map of at least 0, divided by its largest value, as probabilities, in float64.

    Args:
        epsilon: is added to every cell; a map of zeros becomes uniform.
    """
    activation = activation.double()
    shares = activation / activation.max().clamp(min=torch.finfo(activation.dtype).tiny) + epsilon
    return shares / shares.sum()


def divergences(maps: Sequence[Tensor]) -> Tensor:
    """KL divergences of probability maps (h, w) to each other, from the row to the column."""
    p = torch.stack([x.flatten() for x in maps])
    return (p[:, None] * (p[:, None].log() - p[None].log())).sum(-1)


class Conflict:
    """Co-DETR's distances between the heads of a model (arXiv:2211.12860, Eqs. 9 and 10).

    Args:
        epsilon: see `distribution`.

    Attributes:
        heads: their names, once an image has been added.
        images: those that were added and have objects.
    """

    def __init__(self, epsilon: float = EPSILON):
        if not epsilon > 0:
            raise ConfigError(f"epsilon has to be above 0, got {epsilon}")
        self.epsilon = epsilon
        self.heads: tuple[str, ...] = ()
        self.images = 0
        self._sum = torch.zeros((), dtype=torch.float64)

    @property
    def note(self) -> str:
        """What the numbers are, and what isn't published of them."""
        return (
            "From a row's head to a column's, Co-DETR's Eq. 9: KL divergences of Grad-CAMs on the "
            "encoder's output; S_i as Eq. 10, of the auxiliary heads among themselves, or, where "
            "there is but one, of it and the decoder. Not published, and chosen here: the class "
            "score, the largest logit of every class in the image, added up; levels averaged on "
            f"the finest; maps divided by their maximum, {self.epsilon:g} added, as probabilities. "
            "Images without objects are left out."
        )

    def add(self, model: GeneralizedDETR, sample: Sample) -> None:
        """Compare the heads on an image; raises as `class_scores`, and heads without a score do."""
        scores = class_scores(model, sample)
        self.heads = tuple(scores)
        if not len(sample.classes):
            return
        with evaluating(model):
            _, memory = model.encode(sample.pixels, sample.padding_mask)
            tokens = memory.tokens.detach().requires_grad_()
            maps = []
            for score in scores.values():
                with torch.enable_grad():
                    (slope,) = torch.autograd.grad(score(replace(memory, tokens=tokens)), tokens)
                activation = class_activation(tokens.detach(), slope, memory.grid)
                maps.append(distribution(activation, self.epsilon))
        self.images += 1
        self._sum = self._sum + divergences(maps)

    def matrix(self) -> Tensor:
        """S_ij, from head i to head j, a mean over images, (heads, heads) float64.

        Raises:
            DataError: no image had objects.
        """
        if not self.images:
            raise DataError("none of the images has an object: take more images, or others")
        return self._sum / self.images

    def scores(self) -> dict[str, float]:
        """S_i of every auxiliary head; raises as `matrix` does."""
        return conflict_scores(self.matrix(), self.heads)


def conflict_scores(matrix: Tensor, heads: Sequence[str]) -> dict[str, float]:
    """S_i of the heads behind the first, which is the decoder, of distances S_ij (heads, heads).

    The mean of the distances to and from the other auxiliary heads; of a single one, which has no
    others, to and from the decoder.
    """
    both = (matrix + matrix.T) / 2
    count = len(heads) - 1
    if count == 1:
        return {heads[1]: float(both[1, 0])}
    among = both[1:, 1:]
    means = (among.sum(1) - among.diagonal()) / (count - 1)
    return dict(zip(heads[1:], means.tolist(), strict=True))
