import pytest
import torch

from ms_detr.auxiliary import ATSSHead, Pyramid, Selection
from ms_detr.auxiliary.anchors import AnchorGrid
from ms_detr.auxiliary.dense import DenseOutputs
from ms_detr.errors import ConfigError

from ..layers.reference import corners, iou

SIZE = (60, 40)


def maps(sizes=(SIZE,)):
    shapes = [(5, 8), (3, 4)]
    levels = tuple(torch.zeros(len(sizes), 32, *shape, dtype=torch.float64) for shape in shapes)
    return Pyramid(levels, (8, 16), torch.tensor(sizes, dtype=torch.float64))


def slow(boxes, probability, quality, level_sizes, size, threshold, per_level, iou_threshold, top):
    """(score, class, anchor) of what stays, best first."""
    pairs, first = [], 0
    for count in level_sizes:
        level = [
            (probability[i][k].item(), k, i)
            for i in range(first, first + count)
            for k in range(probability.shape[1])
        ]
        pairs += [x for x in sorted(level, reverse=True)[:per_level] if x[0] > threshold]
        first += count

    def cut(i):
        x1, y1, x2, y2 = corners(boxes[i].tolist())
        x1, x2 = (min(max(x, 0), size[0]) for x in (x1, x2))
        y1, y2 = (min(max(y, 0), size[1]) for y in (y1, y2))
        return (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1

    pairs = [(score * quality[i].item(), k, i) for score, k, i in pairs if min(cut(i)[2:]) > 0]
    kept = []
    for score, k, i in sorted(pairs, reverse=True):
        rivals = [j for _, other, j in kept if other == k]
        if all(iou(cut(i), cut(j)) <= iou_threshold for j in rivals):
            kept.append((score, k, i))
    return [(*x, corners(cut(x[2]))) for x in kept[:top]]


@pytest.mark.parametrize(
    "options",
    [(0.0, 1000, 0.6, 100), (0.4, 1000, 0.6, 100), (0.0, 20, 0.3, 100), (0.0, 1000, 0.9, 7)],
    ids=str,
)
def test_against_a_loop(options):
    generator = torch.Generator().manual_seed(0)
    pyramid = maps()
    anchors = AnchorGrid((8.0,))(pyramid)
    count = len(anchors.boxes)
    probability = torch.rand(1, count, 3, generator=generator, dtype=torch.float64)
    quality = torch.rand(1, count, generator=generator, dtype=torch.float64)
    boxes = anchors.boxes * torch.rand(1, count, 4, generator=generator, dtype=torch.float64) * 2
    boxes[0, ::9, :2] -= 200  # outside the image: nothing is left of them
    (found,) = Selection(*options)(boxes, probability, quality, anchors, pyramid.sizes)
    expected = slow(boxes[0], probability[0], quality[0], anchors.level_sizes, SIZE, *options)
    assert found.queries[0].tolist() == [x[2] for x in expected]
    assert found.labels[0].tolist() == [x[1] for x in expected]
    assert found.scores[0].tolist() == pytest.approx([x[0] for x in expected])
    scale = torch.tensor([*SIZE, *SIZE], dtype=torch.float64)
    torch.testing.assert_close(
        found.boxes[0] * scale, torch.tensor([x[3] for x in expected]).double(), rtol=0, atol=1e-4
    )


def test_a_planted_object(monkeypatch):
    """Of one place, on the second image of two; boxes and scores by hand."""
    head = ATSSHead(32, 3, (2,)).double()
    pyramid = maps((SIZE, (48, 32)))
    count = len(head.grid(pyramid).boxes)
    logits = torch.full((2, count, 3), -20.0, dtype=torch.float64)
    deltas = torch.zeros(2, count, 4, dtype=torch.float64)
    centerness = torch.zeros(2, count, dtype=torch.float64)
    place = 2 * 8 + 3  # of stride 8: centre (24, 16), anchor 64 x 64
    logits[1, place, 2] = 3.0
    logits[1, 7, 2] = 9.0  # column 7 is in the padding of an image of 6
    deltas[1, place] = deltas.new_tensor([-1.25, 0.625, -6.931471805599453, -100.0])
    centerness[1, [place, 7]] = centerness.new_tensor([1.0, 9.0])
    outputs = DenseOutputs(logits, deltas, centerness)
    monkeypatch.setattr(head, "outputs", lambda _: outputs)
    _, found = head.detect(pyramid)
    assert (found.queries[0, 0], found.labels[0, 0]) == (place, 2)
    sigmoid = [1 / (1 + 2.718281828459045**-x) for x in (3, 1)]
    assert found.scores[0, 0].item() == pytest.approx(sigmoid[0] * sigmoid[1])
    # Centre (24 - 8, 16 + 4), width 64 / 4, height 64 * 16 / 1000.
    expected = torch.tensor([8 / 48, 19.488 / 32, 24 / 48, 20.512 / 32], dtype=torch.float64)
    torch.testing.assert_close(found.boxes[0, 0], expected)


def test_wrong_settings():
    with pytest.raises(ConfigError, match="at least 1, got 0 and 100"):
        Selection(per_level=0)
