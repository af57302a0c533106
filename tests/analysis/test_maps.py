"""Discriminability of hand-made memories, and what is foreground, against loops."""

import math

import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances

from ms_detr.analysis import Sample, discriminability
from ms_detr.errors import ConfigError, DataError
from ms_detr.structures import Memory, TokenGrid


def memory_of(maps, rows, columns):
    """A memory of one image whose maps (C, h, w) have so many rows and columns that count."""
    masks = []
    for level, inside_rows, inside_columns in zip(maps, rows, columns, strict=True):
        mask = torch.ones(1, *level.shape[1:], dtype=torch.bool)
        mask[:, :inside_rows, :inside_columns] = False
        masks.append(mask)
    tokens = torch.cat([level.flatten(1).T for level in maps])[None]
    return Memory(tokens, TokenGrid.of(masks, tokens.dtype))


def slow_bilinear(level, height, width):
    """Each of the centres of the large map between those of the small one, edges continued."""
    rows, columns = len(level), len(level[0])
    found = [[0.0] * width for _ in range(height)]
    for i in range(height):
        for j in range(width):
            y = min(max((i + 0.5) * rows / height - 0.5, 0), rows - 1)
            x = min(max((j + 0.5) * columns / width - 0.5, 0), columns - 1)
            for r in range(rows):
                for c in range(columns):
                    share = max(0.0, 1 - abs(y - r)) * max(0.0, 1 - abs(x - c))
                    found[i][j] += share * level[r][c]
    return found


def slow_discriminability(maps, rows, columns, height, width):
    total = [[0.0] * width for _ in range(height)]
    for level, inside_rows, inside_columns in zip(maps, rows, columns, strict=True):
        norms = [
            [math.sqrt(sum(float(x) ** 2 for x in level[:, r, c])) for c in range(inside_columns)]
            for r in range(inside_rows)
        ]
        large = slow_bilinear(norms, height, width)
        most = max(map(max, large))
        for i in range(height):
            for j in range(width):
                total[i][j] += large[i][j] / most / len(maps)
    return total


def test_discriminability_against_loops(float64):
    maps = [torch.randn(3, 6, 8), torch.randn(3, 3, 4), torch.randn(3, 2, 2)]
    rows, columns = (5, 3, 2), (6, 3, 2)
    found = discriminability(memory_of(maps, rows, columns), (10, 13))
    expected = slow_discriminability(maps, rows, columns, 10, 13)
    torch.testing.assert_close(found, torch.tensor(expected))
    chosen = discriminability(memory_of(maps, rows, columns), (10, 13), [1, 2])
    expected = slow_discriminability(maps[1:], rows[1:], columns[1:], 10, 13)
    torch.testing.assert_close(chosen, torch.tensor(expected))


def test_discriminability_of_a_level_of_the_images_size_is_its_norms():
    level = torch.zeros(2, 2, 3)
    level[0] = torch.tensor([[3.0, 0, 6], [1.5, 0, 0]])
    level[1] = torch.tensor([[4.0, 0, 8], [2, 0, 5]])
    found = discriminability(memory_of([level], [2], [3]), (2, 3))
    torch.testing.assert_close(found, torch.tensor([[0.5, 0, 1], [0.25, 0, 0.5]]))


def test_padding_does_not_count():
    level = torch.rand(2, 4, 4) + 1
    plain = discriminability(memory_of([level], [3], [2]), (6, 4))
    level[:, 3:], level[:, :, 2:] = 100.0, 100.0
    assert torch.equal(plain, discriminability(memory_of([level], [3], [2]), (6, 4)))
    assert plain.max() == 1


def test_a_level_of_zeros_stays_one():
    maps = [torch.ones(2, 2, 2), torch.zeros(2, 1, 1)]
    assert torch.equal(
        discriminability(memory_of(maps, (2, 1), (2, 1)), (4, 4)), torch.full((4, 4), 0.5)
    )


def test_a_level_that_is_not_there():
    with pytest.raises(ConfigError, match="there is no level 1: the model has 0 to 0"):
        discriminability(memory_of([torch.ones(2, 2, 2)], [2], [2]), (4, 4), [1])


def inputs_of(boxes, masks=None):
    instances = Instances((5, 7))
    instances.gt_boxes = Boxes(torch.tensor(boxes).reshape(-1, 4))
    instances.gt_classes = torch.zeros(len(boxes), dtype=torch.int64)
    if masks is not None:
        instances.gt_masks = BitMasks(masks)
    return {"image": torch.zeros(3, 5, 7, dtype=torch.uint8), "instances": instances}


@pytest.fixture(scope="module")
def model(tiny):
    return tiny("demo/ms_detr.py")[0]


def test_foreground_are_the_pixels_with_their_centre_in_a_box(model):
    boxes = [[0.5, 0.4, 2.5, 1.6], [2.6, 3.0, 20.0, 4.4], [6.6, 0.0, 6.9, 5.0], [1.0, 2, 1, 4]]
    sample = Sample.of(model, inputs_of(boxes))
    for row in range(5):
        for column in range(7):
            inside = any(
                x1 <= column + 0.5 < x2 and y1 <= row + 0.5 < y2 for x1, y1, x2, y2 in boxes
            )
            assert sample.foreground()[row, column] == inside, (row, column)


def test_foreground_by_masks(model):
    masks = torch.zeros(2, 5, 7, dtype=torch.bool)
    masks[0, 1, 2], masks[1, 3] = True, True
    sample = Sample.of(model, inputs_of([[0.0, 0, 7, 5], [0, 0, 1, 1]], masks))
    assert torch.equal(sample.foreground(by_masks=True), masks[0] | masks[1])
    without = Sample.of(model, inputs_of([]))
    assert not without.foreground().any()
    with pytest.raises(DataError, match="dataloader.masks=true"):
        without.foreground(by_masks=True)
