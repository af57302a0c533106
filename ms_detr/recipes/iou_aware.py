"""One-to-one classification that learns how well a box fits."""

from detectron2.config import LazyCall as L
from omegaconf import DictConfig

from ..variants.iou_aware import IABCELoss, QualityFocalLoss, VariFocalLoss
from ._guard import recipe


def ia_bce_loss(tau: float = 1.5) -> DictConfig:
    """Align-DETR's loss of classes, with its weight."""
    return L(IABCELoss)(weight=1.0, alpha=0.25, gamma=2.0, tau=tau)


def quality_focal_loss() -> DictConfig:
    """Co-DINO's loss of classes, with its weight."""
    return L(QualityFocalLoss)(weight=1.0, beta=2.0)


@recipe
def ia_bce(model: DictConfig) -> DictConfig:
    """Align-DETR's IA-BCE (arXiv:2304.07527) with its weight."""
    model.criterion.terms.o2o.losses["class"] = ia_bce_loss()
    return model


@recipe
def varifocal(model: DictConfig) -> DictConfig:
    """VariFocal loss (arXiv:2008.13367)."""
    model.criterion.terms.o2o.losses["class"] = L(VariFocalLoss)(weight=1.0, alpha=0.75, gamma=2.0)
    return model


@recipe
def quality_focal(model: DictConfig) -> DictConfig:
    """Quality focal loss (arXiv:2006.04388) with Co-DINO's weight."""
    model.criterion.terms.o2o.losses["class"] = quality_focal_loss()
    return model
