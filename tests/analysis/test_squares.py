"""Padding that is image to the model is none of the image's, to whom reads an analysis."""

from dataclasses import replace

import pytest
import torch
from detectron2.structures import Boxes, Instances
from torch.nn import functional as F

from ms_detr.analysis import Attention, Discriminability, Sample, query_places


@pytest.fixture(scope="module")
def padded(tiny):
    """A model, an image of 128 x 128 pixels, and the same in a square of 160."""
    model, (x,) = tiny("demo/family/ms_detr_dn.py", images=1)
    objects = x["instances"]
    instances = Instances((160, 160))
    instances.gt_boxes = Boxes(objects.gt_boxes.tensor.clone())
    instances.gt_classes = objects.gt_classes
    image = F.pad(x["image"], (0, 32, 0, 32), value=114)
    square = {"image": image, "instances": instances, "shown_size": (128, 128)}
    return model, Sample.of(model, x), Sample.of(model, square)


def test_maps_end_where_the_image_ends(padded):
    model, plain, square = padded
    assert plain.size == plain.whole == square.size == (128, 128)
    assert square.whole == (160, 160) and not square.padding_mask.any()
    uncut = replace(square, size=square.whole)
    for score in (Discriminability(), Attention(top=5)):
        values = score.score(model, square)
        assert values.shape == square.foreground().shape == (128, 128)
        assert torch.equal(values, score.score(model, uncut)[:128, :128])
    assert torch.equal(square.foreground(), plain.foreground())


def test_places_are_fractions_of_the_image(padded):
    model, _, square = padded
    found = query_places(model, square)
    uncut = query_places(model, replace(square, size=square.whole))
    assert found.groups.keys() == uncut.groups.keys() and found.groups
    pairs = [(found.primary, uncut.primary)]
    pairs += [(found.groups[name], uncut.groups[name]) for name in found.groups]
    for one, other in pairs:
        assert len(one.points)
        torch.testing.assert_close(one.points, other.points * 160 / 128)
        assert torch.equal(one.objects, other.objects)
