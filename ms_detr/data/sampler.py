"""The order of the training data: a function of the seed alone."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from ..errors import ConfigError

Key = tuple[int, int, int]


def iterations_per_epoch(dataset_size: int, total_batch_size: int) -> int:
    """Return the full batches of an epoch; images that are left over wait for the next one.

    Raises:
        ConfigError: the dataset doesn't fill one batch.
    """
    if total_batch_size < 1:
        raise ConfigError(
            f"dataloader.train.total_batch_size must be at least 1, got {total_batch_size}."
        )
    if dataset_size < total_batch_size:
        raise ConfigError(
            f"The training dataset has {dataset_size} images, fewer than one batch: set "
            f"dataloader.train.total_batch_size (now {total_batch_size}) to {dataset_size} or less."
        )
    return dataset_size // total_batch_size


class TrainingSampler(Sampler[list[Key]]):
    """An endless batch sampler whose batch number i depends on nothing but (seed, i).

    Every epoch runs through its own permutation of the dataset, drawn from (seed, epoch). The
    ranks take contiguous parts of a batch, so that the images of an iteration, and what each of
    them is called, don't depend on the number of processes. Starting at iteration n gives the
    batches that an unbroken run gives from there on.

    A batch is a list of total_batch_size / world_size keys (epoch, position, index): ``index`` is
    the image, ``position`` its place in the epoch's permutation. (seed, epoch, position) names a
    draw once and for all, and seeds its augmentation.

    Args:
        size: number of images.
        total_batch_size: images per iteration over all ranks.
        seed: 0 or greater.
        rank, world_size: number of this process, and how many there are.

    Raises:
        ConfigError: the batch can't be split over the ranks, or the dataset is smaller than it.
    """

    def __init__(
        self, size: int, total_batch_size: int, seed: int, rank: int = 0, world_size: int = 1
    ):
        self.iterations_per_epoch = iterations_per_epoch(size, total_batch_size)
        if total_batch_size % world_size:
            raise ConfigError(
                f"dataloader.train.total_batch_size={total_batch_size} can't be split evenly over "
                f"{world_size} processes: make it a multiple of {world_size}."
            )
        if not isinstance(seed, int) or seed < 0:
            raise ConfigError(f"train.seed must be an integer of 0 or greater, got {seed!r}.")
        self.size = size
        self.total_batch_size = total_batch_size
        self.batch_size = total_batch_size // world_size
        self.seed = seed
        self.rank = rank
        self._start = 0

    def start_at(self, iteration: int) -> None:
        """Let iterators that are made from now on begin with the batch of an iteration."""
        self._start = iteration

    def __iter__(self) -> Iterator[list[Key]]:
        epoch, step = divmod(self._start, self.iterations_per_epoch)
        while True:
            order = np.random.default_rng([self.seed, epoch]).permutation(self.size)
            for begin in range(step, self.iterations_per_epoch):
                first = begin * self.total_batch_size + self.rank * self.batch_size
                positions = range(first, first + self.batch_size)
                yield [(epoch, position, int(order[position])) for position in positions]
            epoch, step = epoch + 1, 0
