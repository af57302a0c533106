"""By what ``ms-detr analyze conflict`` compares heads."""

import pytest
import torch

from ms_detr.auxiliary import ATSSHead, FasterRCNNHead, FCOSHead, RetinaNetHead

from .rcnn_scenes import STRIDES, make_pyramid

CHANNELS, CLASSES = 32, 5


@pytest.mark.parametrize("kind", [ATSSHead, RetinaNetHead, FCOSHead, FasterRCNNHead])
def test_the_largest_logit_of_each_class_that_is_there(kind):
    """All places count, those of every level or every proposal."""
    torch.manual_seed(0)
    head = kind(CHANNELS, CLASSES, [len(STRIDES) - 1, 1]).double().eval()
    for parameter in head.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    pyramid = make_pyramid((96, 64), channels=CHANNELS)
    labels = torch.tensor([3, 1])
    seen = []
    if isinstance(head, FasterRCNNHead):
        head.cls_score.register_forward_hook(lambda *call: seen.append(call[2].detach()[:, :-1]))
    else:
        for conv in head.class_convs:
            conv.register_forward_hook(lambda *call: seen.append(call[2].detach()[0].flatten(1).T))
    score = head.class_score(pyramid, labels)
    expected = sum(max(float(row[label]) for part in seen for row in part) for label in (3, 1))
    assert score.item() == pytest.approx(expected, rel=1e-12)
    gradients = torch.autograd.grad(score, pyramid.maps, allow_unused=True)
    assert any(g is not None and g.abs().max() > 0 for g in gradients)
