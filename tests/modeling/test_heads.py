import math

import numpy as np
import pytest
import torch

from ms_detr.modeling import BoxHead, ClassHead

from ..layers.reference import linear, parameters
from ..layers.support import random, randomise
from . import reference


def test_class_head():
    head = ClassHead(8, 5)
    assert head.bias.tolist() == pytest.approx([-math.log(99)] * 5)
    assert head.weight.abs().max() > 0
    x = random(2, 3, 8)
    head.double()
    np.testing.assert_allclose(head(x).detach(), linear(x.numpy(), parameters(head)), atol=1e-12)


def test_box_head_equals_the_loop():
    head, x = randomise(BoxHead(8)), random(2, 3, 8)
    expected = reference.box_head(parameters(head), x.numpy())
    np.testing.assert_allclose(head(x).detach(), expected, atol=1e-12)


def test_box_head_starts_without_a_correction():
    head = BoxHead(8)
    assert torch.equal(head(torch.randn(2, 8)), torch.zeros(2, 4))
    assert head[0].weight.abs().max() > 0
