"""Batches of images of like size, so that little of them is padding.

A batch is padded to its tallest and widest image, and the published necks normalise padding with
the image: what a model predicts for an image hangs a little, in a mixed batch much, on the images
beside it. See docs/padding.md.
"""

from collections.abc import Sequence

import numpy as np

Size = tuple[int, int]  # height, width


def group_by_size(sizes: Sequence[Size], batch_size: int) -> list[list[int]]:
    """Group images into batches of like size; every image is in exactly one.

    All batches are full but one. Images of one size keep their order, and so do batches, by their
    first images: alone, or if all are of one size, the images stay in the order they came in.

    Args:
        sizes: (height, width) of every image as the model sees it, after resizing.
        batch_size: most images in a batch, at least 1.

    Returns:
        Indices into ``sizes``, ascending in every batch.
    """
    if batch_size < 1:
        raise ValueError(f"a batch has at least 1 image, got batch_size={batch_size}")
    places = np.log(np.maximum(np.array(sizes, dtype=float).reshape(-1, 2), 1.0))

    def halve(images: np.ndarray) -> list[list[int]]:
        """Cut where images differ most, in height or width, until each part is a batch."""
        if len(images) <= batch_size:
            return [sorted(images.tolist())]
        wide = int(np.ptp(places[images], axis=0).argmax())
        order = images[np.lexsort((images, places[images, 1 - wide], places[images, wide]))]
        batches = -(-len(images) // batch_size)
        middle = batches // 2 * batch_size
        return halve(order[:middle]) + halve(order[middle:])

    return sorted(halve(np.arange(len(sizes)))) if len(sizes) else []
