"""A trained model for use: from images to the objects that are wanted."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

from detectron2.structures import Instances
from omegaconf import DictConfig

from ..data import ImageError
from ..errors import MissingPackageError, short_message
from ..meta_arch import GeneralizedDETR
from .choice import THRESHOLD, Choice, class_numbers
from .model import load_model
from .prediction import ALONE, Source, predicted, read_image, usage_of
from .tiles import OVERLAP, Pieces, Tiling, check_masks, whole

if TYPE_CHECKING:
    import supervision

K = TypeVar("K")
Failed = Callable[[K, Exception], None]


class Predictor:
    """Finds objects in images with a trained model: `load_model`, `predict`, and a choice.

    Args:
        weights: a checkpoint, see `ms_detr.load_model`, or the model that this returned.
        cfg: its config, or the config's file, where the checkpoint keeps none.
        threshold: least score of an object.
        classes: names or numbers of classes; left out, all.
        top: how many objects of an image at most, the best.
        nms: of two objects of a class whose boxes' IoU is larger, the better one is kept; left
            out, both.
        tile: images whose side is longer than so many pixels are predicted tile by tile.
        overlap: the part of a tile's side that it shares with its neighbour at least. Objects of
            up to three quarters of that are found as in a whole image.

    Raises:
        ConfigError: there is no such class, or a number is out of its range; and see `load_model`.
    """

    def __init__(
        self,
        weights: str | os.PathLike[str] | GeneralizedDETR,
        cfg: DictConfig | str | os.PathLike[str] | None = None,
        *,
        threshold: float = THRESHOLD,
        classes: Sequence[str | int] | None = None,
        top: int | None = None,
        nms: float | None = None,
        tile: int | None = None,
        overlap: float = OVERLAP,
    ):
        self._choice = Choice(threshold, None, nms, top)  # before what takes longer
        self._tiling = None if tile is None else Tiling(tile, overlap)
        self.model = weights if isinstance(weights, GeneralizedDETR) else load_model(weights, cfg)
        self._usage = usage_of(self.model, None)
        if classes is not None:
            numbers = class_numbers(classes, self.class_names, self.model.num_classes)
            self._choice = Choice(threshold, numbers, nms, top)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, by their number; empty where the weights tell none."""
        return self.model.class_names

    def __call__(self, images: Source | Sequence[Source]) -> list[Instances]:
        """Find the wanted objects of each image; an image alone is a list of one.

        Args:
            images: as of `ms_detr.predict`.

        Returns:
            What `ms_detr.predict` finds in each.

        Raises:
            ImageError: masks of an image would take too much memory; and see `ms_detr.predict`.
        """
        if isinstance(images, (list, tuple)):
            named = [(i, f"images[{i}]", image) for i, image in enumerate(images)]
        else:
            named = [(0, ALONE, cast(Source, images))]
        found = dict(self.each(named, _raise))
        return [found[index] for index in range(len(named))]

    def each(
        self, images: Iterable[tuple[K, str, Source]], failed: Failed[K]
    ) -> Iterator[tuple[K, Instances]]:
        """Yield what is found in images, as soon as it is: those of one size in their order.

        Args:
            images: what each is known by, its name for messages, and the image. They are read as
                they are needed, and few are held at a time.
            failed: told of an image that can't be read; the others go on.
        """
        pieces: dict[K, Pieces] = {}
        inputs = self._inputs(images, pieces, failed)
        for (key, number), found in predicted(self.model, inputs, self._usage.batch_size):
            if key not in pieces:
                continue  # another of its tiles has failed
            image = pieces[key]
            image.add(number, self._choice.alone(found))
            if not image.are_complete:
                continue
            del pieces[key]
            try:
                found = image.joined(self._choice)
            except ImageError as error:
                failed(key, error)
            else:
                yield key, found

    def to_supervision(self, found: Instances) -> supervision.Detections:
        """Return an image's objects for supervision, names of classes as ``class_name`` included.

        Raises:
            MissingPackageError: it isn't installed.
        """
        try:
            import supervision
        except ImportError as error:
            raise MissingPackageError(
                "to_supervision needs supervision: python -m pip install supervision"
            ) from error
        detections = supervision.Detections.from_detectron2({"instances": found})
        if self.class_names:
            names = [self.class_names[index] for index in found.pred_classes.tolist()]
            detections["class_name"] = names
        return detections

    def _inputs(
        self, images: Iterable[tuple[K, str, Source]], pieces: dict[K, Pieces], failed: Failed[K]
    ) -> Iterator[tuple[tuple[K, int], dict[str, Any]]]:
        """Yield the model's inputs, each one a tile of an image, whose pieces are begun."""
        mapper = self._usage.mapper
        for key, name, source in images:
            try:
                image = read_image(source, name, mapper.image_format)
                size = image.shape[0], image.shape[1]
                tiles = [whole(*size)] if self._tiling is None else self._tiling.of(*size, name)
                if self.model.masks is not None:
                    check_masks(name, self.model.postprocess.top_k, tiles[0].size)
                pieces[key] = Pieces(name, size, tiles)
                for number, tile in enumerate(tiles):
                    mapped = mapper.map_image(tile.cut(image), name)
                    if number == len(tiles) - 1:
                        del image  # not to be held while its picture is drawn
                    yield (key, number), mapped
            except Exception as error:
                if short_message(error) is None:
                    raise
                pieces.pop(key, None)
                failed(key, error)


def _raise(_: Any, error: Exception) -> None:
    raise error
