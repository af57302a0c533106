"""What becomes of predictions."""

from detectron2.config import LazyCall as L
from omegaconf import DictConfig

from ..modeling import SoftNMS
from ._guard import recipe


@recipe
def soft_nms(model: DictConfig, iou_threshold: float = 0.8, min_score: float = 1e-3) -> DictConfig:
    """Soft-NMS of as many detections as there are queries, for a model of any method."""
    model.postprocess.nms = L(SoftNMS)(
        candidates="${model.num_queries}", iou_threshold=iou_threshold, min_score=min_score
    )
    return model
