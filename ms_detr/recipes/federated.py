"""A class loss for data whose images aren't annotated in full."""

from detectron2.config import LazyCall as L
from omegaconf import DictConfig, OmegaConf

from ..data import ImageCounts
from ..variants.federated import FederatedLoss


def federated(model: DictConfig, num_classes: int = 50, power: float = 0.5) -> DictConfig:
    """Federated loss (arXiv:2103.07461) in all terms that tell classes apart, in place.

    It wraps their losses, whatever these are, and so is called behind all other recipes.

    Args:
        num_classes: that a step counts.
        power: of the classes' frequencies among the training images, by which others than those of
            the objects are drawn.
    """
    terms = model.criterion.terms
    for name in terms:
        if name == "_target_" or terms[name] is None:
            continue
        if OmegaConf.is_interpolation(terms[name], "losses") or _is_agnostic(terms[name]):
            continue
        losses = terms[name].losses
        losses["class"] = L(FederatedLoss)(
            loss=losses["class"],
            frequencies=L(ImageCounts)(dataset_name="${dataloader.train.dataset.name}"),
            num_classes=num_classes,
            power=power,
        )
    return model


def _is_agnostic(term: DictConfig) -> bool:
    """Whether a term takes all objects for one class, as that of proposals does."""
    return bool(term.assigner.get("class_agnostic", False))
