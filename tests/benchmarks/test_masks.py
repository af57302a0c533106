"""The benchmark of masks at a small size."""

import torch

from ms_detr.benchmarks import masks as benchmark
from ms_detr.modeling.masks import DotProductMasks


def test_every_step_is_measured():
    rows = benchmark.measure_masks(queries=9, objects=4, size=32, per_object=2)
    assert [row["masks"] for row in rows] == [54, 24, 54, 48]
    assert all(row["seconds"] > 0 and row["peak MB"] >= 0 for row in rows)


def test_masks_made_beforehand_are_the_same():
    torch.manual_seed(0)
    pixels = torch.randn(2, 8, 5, 6)
    masks = DotProductMasks(torch.nn.Identity(), torch.randn(3, 2, 4, 8), pixels)
    layer, query = torch.tensor([0, 2, 2]), torch.tensor([3, 0, 1])
    for image in (0, 1):
        torch.testing.assert_close(
            benchmark.AllMasks(masks).logits(image, layer, query), masks.logits(image, layer, query)
        )
