"""Instance masks for any model."""

from collections.abc import Sequence

from detectron2.config import LazyCall as L
from omegaconf import DictConfig, OmegaConf

from ..errors import ConfigError
from ..modeling import AttentionBranch, BoxPrior, DotProductBranch
from ..supervision import DiceLoss, MaskCost, MaskLoss, MaskPoints
from ._guard import recipe


def dot_product(scale: int = 1, **in_channels: int) -> DictConfig:
    """Masks at `scale` times the resolution of one backbone map; else ResNet-50's at stride 4."""
    return L(DotProductBranch)(
        embed_dim="${model.embed_dim}",
        in_channels=in_channels or dict(res2=256),
        scale=scale,
        prior=None,
    )


def mask_attention(stride: int = 2, **in_channels: int) -> DictConfig:
    """DETR's mask head; without arguments masks of stride 16 from ResNet-50."""
    return L(AttentionBranch)(
        embed_dim="${model.embed_dim}",
        num_heads="${model.num_heads}",
        in_channels=in_channels or dict(res5=2048, res4=1024, res3=512),
        stride=stride,
        prior=None,
    )


def with_prior(branch: DictConfig, slope: float = 10.0) -> DictConfig:
    """Let masks start from their queries' boxes, in place; returns the branch."""
    branch.prior = L(BoxPrior)(embed_dim="${model.embed_dim}", slope=slope)
    return branch


@recipe
def with_masks(
    model: DictConfig,
    branch: DictConfig | None = None,
    terms: Sequence[str] = ("o2o",),
    mask_cost: bool = True,
    weight: float = 5.0,
    num_points: int = 12544,
) -> DictConfig:
    """Add masks to a model of any method, with Mask DINO's weights.

    Classes and boxes keep theirs.

    Args:
        branch: what predicts masks; by dot product if None.
        terms: names of the terms that supervise masks.
        mask_cost: match the one-to-one term on masks as well.
        weight: of both losses and both costs.
        num_points: at which masks are compared.
    """
    model.masks = branch or dot_product()
    model.backbone.out_features = sorted({*model.masks.in_channels, *model.neck.in_channels})
    for name in terms:
        term = model.criterion.terms[name]
        if OmegaConf.is_interpolation(term, "losses"):
            raise ConfigError(f"the term {name} follows another one by links: name that one")
        term.losses.mask = L(MaskLoss)(weight=weight)
        term.losses.dice = L(DiceLoss)(weight=weight)
        term.mask_points = L(MaskPoints)(num_points=num_points, oversample=3.0, importance=0.75)
    if mask_cost:
        model.criterion.terms.o2o.assigner.further_cost = L(MaskCost)(
            mask_cost=weight, dice_cost=weight, num_points=num_points
        )
    return model
