"""Data loaders: a training stream that can be resumed, and one pass over the test images."""

import logging
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetFromList, MapDataset
from detectron2.data.samplers import InferenceSampler
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset

from ..errors import ConfigError, DataError
from .bad_images import REPLACES, BadImages, map_or_replace
from .batches import Size, group_by_size
from .dataset_dicts import Records
from .sampler import Key, TrainingSampler
from .workers import WorkerLoader

logger = logging.getLogger(__name__)

Mapper = Callable[[dict], dict]
Mix = Callable[[dict, dict], dict]


class TrainLoader(WorkerLoader):
    """An endless DataLoader of lists of model inputs, in the order of a TrainingSampler.

    Args:
        dataset: see `WorkerLoader`; and ``options``.
        bad_images: counts those that were replaced.
    """

    batch_sampler: TrainingSampler

    def __init__(self, dataset: Dataset, *, bad_images: BadImages, **options: Any):
        super().__init__(dataset, **options)
        self._mapped = dataset
        self.bad_images = bad_images

    def __iter__(self) -> Any:
        """Start the workers and return an iterator of batches."""
        return map(self.bad_images.count, super().__iter__())

    @property
    def dataset_size(self) -> int:
        """Number of images."""
        return self.batch_sampler.size

    @property
    def total_batch_size(self) -> int:
        """Images per iteration over all ranks."""
        return self.batch_sampler.total_batch_size

    def start_at(self, iteration: int) -> None:
        """Begin with the batch of an iteration. Before the first batch is taken."""
        self.batch_sampler.start_at(iteration)

    def first_images(self, batches: int) -> list[dict[str, Any]]:
        """Map this process's images of the next batches here; the loader is left as it is.

        Raises:
            MissingFileError, ImageError: too many of them are bad.
        """
        keys = [key for batch in islice(self.batch_sampler, batches) for key in batch]
        images = [self._mapped[key] for key in keys]
        return [{name: x[name] for name in x if name != REPLACES} for x in images]


def build_train_loader(
    dataset: Sequence[dict],
    mapper: Mapper,
    total_batch_size: int,
    num_workers: int = 4,
    seed: int = 0,
    max_bad_images: int = 0,
    copy_paste: Mix | None = None,
) -> TrainLoader:
    """Build an endless stream of training batches, of which this process gets its part.

    Which images a batch holds and how they are augmented depends on (seed, iteration) only: not on
    the number of workers or processes, and not on where a run was resumed.

    Args:
        dataset: Detectron2 dataset dicts, see :func:`ms_detr.data.coco_dataset`.
        mapper: makes a model input of a dataset dict. Its random draws from numpy, ``random`` and
            torch are seeded here, image by image.
        total_batch_size: images per iteration over all processes.
        num_workers: loader processes per training process; 0 loads in the training process.
        seed: 0 or greater.
        max_bad_images: how many different images of the dataset may turn out bad. In the place of
            such an image comes the next one of the dataset; others keep their places.
        copy_paste: makes one model input of two, see :class:`ms_detr.data.CopyPaste`. The second
            is of an image that is drawn from the whole dataset, with draws of its own.

    Raises:
        MissingFileError, ImageError: out of the batches, for one bad image more.
        DataError: no image has an object, crowds don't count; see also
            :class:`ms_detr.data.TrainingSampler`.
    """
    if not any(map(_has_objects, dataset)):
        raise DataError(
            f"Nothing can be learnt: {_without_objects(dataset)}. Check the annotation file of "
            "dataloader.train.dataset."
        )
    sampler = TrainingSampler(
        len(dataset), total_batch_size, seed, comm.get_rank(), comm.get_world_size()
    )
    return TrainLoader(
        _SeededDataset(dataset, mapper, seed, max_bad_images, copy_paste),
        bad_images=BadImages(max_bad_images),
        batch_sampler=sampler,
        num_workers=num_workers,
        generator=_own_generator(),
        persistent_workers=num_workers > 0,
    )


def build_test_loader(
    dataset: Sequence[dict], mapper: Mapper, batch_size: int = 1, num_workers: int = 4
) -> DataLoader:
    """Build one pass over the dataset; every process gets its part of the batches.

    Batches are of images of like size, see :func:`ms_detr.data.group_by_size`, and the same for any
    number of processes. A batch of one, and images of one size, leave the dataset in its order.

    Args:
        dataset: Detectron2 dataset dicts.
        mapper: makes a model input of a dataset dict. The size of that is what its method ``size``
            says, see :class:`ms_detr.data.DetrMapper`; without one, the image file's.
        batch_size: images per batch and process; one batch may be smaller.
        num_workers: loader processes per process; 0 loads in the process itself.
    """
    if batch_size < 1:
        raise ConfigError(f"dataloader.test.batch_size must be at least 1, got {batch_size}.")
    if not any(map(_has_objects, dataset)):
        logger.warning("AP will be nan: %s", _without_objects(dataset))
    batches = group_by_size(_sizes(dataset, mapper, batch_size), batch_size)
    return WorkerLoader(
        MapDataset(_shared(dataset), mapper),
        batch_sampler=[batches[i] for i in InferenceSampler(len(batches))],
        num_workers=num_workers,
        generator=_own_generator(),
    )


def _sizes(dataset: Sequence[dict], mapper: Mapper, batch_size: int) -> list[Size]:
    """Return the sizes of all mapped images without reading them, or equal ones if unknown."""
    known = all("height" in record and "width" in record for record in dataset)
    if batch_size == 1 or not known:
        return [(1, 1)] * len(dataset)
    size = getattr(mapper, "size", lambda record: (record["height"], record["width"]))
    with _seeded(0):
        return [size(record) for record in dataset]


def _shared(records: Sequence[dict]) -> DatasetFromList:
    """Make a dataset of records whose memory workers share: as bytes, unless it is arrays."""
    serialize = not isinstance(records, Records)
    return DatasetFromList(records, copy=serialize, serialize=serialize)


def _has_objects(record: dict) -> bool:
    """Tell whether an image has an object to learn; without annotations it is taken to."""
    return "annotations" not in record or any(not a.get("iscrowd") for a in record["annotations"])


def _without_objects(dataset: Sequence[dict]) -> str:
    crowds = sum(len(record["annotations"]) for record in dataset)
    name = dataset[0].get("dataset_name", "unnamed") if dataset else "unnamed"
    what = f"all {crowds} annotations of dataset '{name}' are crowds (iscrowd = 1)"
    return what if crowds else f"no image of dataset '{name}' has an annotation"


def _own_generator() -> torch.Generator:
    """Make a generator for a DataLoader, which would draw from torch's global one at every start.

    So an evaluation more or less doesn't change the training that follows it.
    """
    return torch.Generator().manual_seed(0)


class _SeededDataset(Dataset):
    """Maps the keys of a TrainingSampler to model inputs.

    Workers share the records' memory.
    """

    def __init__(
        self,
        records: Sequence[dict],
        mapper: Mapper,
        seed: int,
        max_bad_images: int,
        copy_paste: Mix | None,
    ):
        self.records = _shared(records)
        self.mapper = mapper
        self.seed = seed
        self.max_bad_images = max_bad_images
        self.copy_paste = copy_paste

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: Key) -> dict:
        epoch, position, index = key
        with _seeded(self.seed, epoch, position):
            mapped = self._map(index)
            if self.copy_paste is None:
                return mapped
            other = self._map(np.random.randint(len(self.records)))
            problems = mapped.pop(REPLACES, {}) | other.pop(REPLACES, {})
            mixed = self.copy_paste(mapped, other)
            return mixed | {REPLACES: problems} if problems else mixed

    def _map(self, index: int) -> dict:
        return map_or_replace(self.mapper, self.records, index, self.max_bad_images)


@contextmanager
def _seeded(*key: int) -> Iterator[None]:
    """Seed the global random generators from a key, and put them back as they were."""
    sequence = np.random.SeedSequence(key)
    words = sequence.generate_state(4)
    # Swapping numpy's bit generator costs a tenth of saving and restoring its state.
    generator = np.random.get_bit_generator()  # type: ignore[attr-defined]
    states = random.getstate(), torch.get_rng_state()
    np.random.set_bit_generator(np.random.MT19937(sequence))  # type: ignore[attr-defined]
    random.seed(words.tobytes())
    # The one generator, not torch.manual_seed, which would reseed the accelerators as well.
    torch.default_generator.manual_seed(int(words[0]))
    try:
        yield
    finally:
        np.random.set_bit_generator(generator)  # type: ignore[attr-defined]
        random.setstate(states[0])
        torch.set_rng_state(states[1])
