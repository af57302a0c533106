"""MS-DETR on Deformable DETR (arXiv:2401.03989, Fig. 4 (c)), as its authors released it."""

from detectron2.config import LazyCall as L

from ms_detr.modeling import Tap
from ms_detr.supervision import AnchorHungarianAssigner, ReleasedTopK, SupervisionTerm

from .deformable_detr import ffn, losses, model

model.decoder.layer.order = ("cross_attention", "self_attention", "ffn")
model.decoder.layer.taps.cross_attention = L(Tap)(ffn=ffn())

terms = model.criterion.terms
terms.o2o.losses["class"].weight = 1.0
terms.o2m = L(SupervisionTerm)(
    source="decoder.cross_attention",
    assigner=L(ReleasedTopK)(k=6, threshold=0.4, alpha=0.3, quota=0.25),
    losses=losses(class_weight=2.0),
    weight=1.0,
)
# Where the proposals start decides, not what they have learnt: class cost 0, on anchors.
terms.encoder.assigner = L(AnchorHungarianAssigner)(
    class_cost=0.0, l1_cost=5.0, giou_cost=2.0, class_agnostic=True
)
