"""One-to-one classification that learns how well a box fits."""

from detectron2.config import LazyCall as L

from ms_detr.variants.iou_aware import IABCELoss, VariFocalLoss


def ia_bce_loss(tau=1.5):
    return L(IABCELoss)(weight=1.0, alpha=0.25, gamma=2.0, tau=tau)


def ia_bce(model):
    """Align-DETR's IA-BCE (arXiv:2304.07527) with its weight, in place; returns the model."""
    model.criterion.terms.o2o.losses["class"] = ia_bce_loss()
    return model


def varifocal(model):
    """VariFocal loss (arXiv:2008.13367), in place; returns the model."""
    model.criterion.terms.o2o.losses["class"] = L(VariFocalLoss)(weight=1.0, alpha=0.75, gamma=2.0)
    return model
