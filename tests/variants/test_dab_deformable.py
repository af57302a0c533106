import numpy as np
import pytest
import torch

from ms_detr.variants import AnchorInitializer, Anchors

from ..layers import reference
from ..layers.support import make_memory, random, randomise
from ..modeling.test_decoder import CROSS_FIRST, LAYERS, PADDINGS, SELF_FIRST, make
from .support import decode

DIM, QUERIES = 8, 5


def test_anchors_are_learned_logits():
    torch.manual_seed(0)
    anchors = Anchors(2000)
    boxes = anchors(3)
    assert boxes.shape == (3, 2000, 4)
    assert torch.equal(boxes[0], boxes[2])
    logits = boxes[0].logit()
    assert logits.mean().abs() < 0.05 and (logits.std() - 1).abs() < 0.05
    assert {name for name, _ in anchors.named_parameters()} == {"sizes", "centers"}


def test_fixed_centres_are_even_and_not_trained():
    torch.manual_seed(0)
    anchors = Anchors(2000, fixed_centers=True)
    centers, sizes = anchors(1)[0].split(2, -1)
    quantiles = torch.tensor([0.1, 0.5, 0.9])
    torch.testing.assert_close(centers.flatten().quantile(quantiles), quantiles, rtol=0, atol=0.03)
    assert (sizes.log() - (1 - sizes).log()).std().sub(1).abs() < 0.05
    assert {name for name, _ in anchors.named_parameters()} == {"sizes"}
    assert "centers" in anchors.state_dict()


def test_fixed_centres_are_logits_clamped_as_published():
    """DAB-DETR's epsilon is 1e-3: of 4,000 places a few lie nearer to the border."""
    torch.manual_seed(0)
    torch.randn(2000, 2)
    places = torch.rand(2000, 2).double()
    assert ((places < 1e-3) | (places > 1 - 1e-3)).sum() > 2
    torch.manual_seed(0)
    anchors = Anchors(2000, fixed_centers=True)
    expected = [reference.inverse_sigmoid(x, 1e-3) for x in places.flatten().tolist()]
    np.testing.assert_allclose(anchors.centers.flatten(), expected, rtol=1e-4, atol=1e-6)


def test_queries():
    initializer = randomise(AnchorInitializer(QUERIES, DIM))
    memory = make_memory(PADDINGS, DIM, seed=4)
    queries, predictions = initializer(memory, supervised=True)
    assert not predictions and not initializer.sources
    assert torch.equal(queries.content, initializer.content.expand(2, -1, -1))
    anchors = initializer.anchors
    expected = torch.cat((anchors.centers, anchors.sizes), 1).sigmoid()
    assert torch.equal(queries.reference, expected.expand(2, -1, -1))


@pytest.mark.parametrize("order", [SELF_FIRST, CROSS_FIRST])
def test_decoded_as_in_the_loop(order):
    """The position follows the refined boxes and the content of every layer."""
    initializer = randomise(AnchorInitializer(QUERIES, DIM))
    memory = make_memory(PADDINGS, DIM, seed=4)
    decoder = make(order, tap=None, epsilon=1e-3)
    with torch.no_grad():
        queries, _ = initializer(memory, supervised=True)
        made = decoder(queries, memory, supervised=True)["decoder"]
    for b in range(2):
        expected = decode(decoder, initializer.position, queries, memory, b, order)
        logits, boxes = expected["decoder"]
        np.testing.assert_allclose(made.logits[:, b], logits, atol=1e-8)
        np.testing.assert_allclose(made.boxes[:, b], boxes, atol=1e-8)


def test_anchors_learn_through_the_first_layer():
    initializer = randomise(AnchorInitializer(QUERIES, DIM))
    queries, _ = initializer(make_memory(PADDINGS, DIM, seed=4), supervised=True)
    decoder = make()
    boxes = decoder(queries, make_memory(PADDINGS, DIM, seed=4), supervised=True)["decoder"].boxes
    assert len(boxes) == LAYERS
    (gradient,) = torch.autograd.grad((boxes[0] * random(*boxes[0].shape)).sum(), queries.reference)
    assert (gradient != 0).all()
