"""Pictures of a training, for TensorBoard: at each evaluation the same images."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from omegaconf import DictConfig, OmegaConf
from torch import nn

from ..errors import MissingFileError
from ..evaluation import evaluating
from ..files import reason
from ..meta_arch import GeneralizedDETR
from .building import build

logger = logging.getLogger(__name__)

LEAST = 0.3  # score of what is drawn
Evaluation = Callable[[], Mapping[str, Any]]


class Pictures:
    """Draws some images of the test dataset: predictions beside annotations, and assignments.

    It is for the main process alone. What is in the way is said once; then nothing is drawn.

    Args:
        model: the bare model; of others than `GeneralizedDETR` nothing is drawn.
        count: images, evenly spread over the dataset.
    """

    def __init__(self, cfg: DictConfig, model: nn.Module, count: int):
        self._cfg = cfg
        self._model = model
        self._count = count if isinstance(model, GeneralizedDETR) else 0
        self._chosen: list[dict[str, Any]] | None = None

    def draw(self) -> None:
        """Hand the pictures to the current storage, whose writers take them on."""
        if not self._count:
            return
        try:
            pictures = self._pictures()
        except Exception as error:  # a picture isn't worth a training
            logger.error("no pictures for TensorBoard any more: %s", reason(error))
            self._count = 0
            return
        storage = get_event_storage()
        storage.clear_images()  # those before, if nobody has taken them
        for name, picture in pictures.items():
            storage.put_image(name, np.ascontiguousarray(picture.transpose(2, 0, 1)))

    def _pictures(self) -> dict[str, np.ndarray]:
        """(H, W, 3) uint8 by name."""
        from ..visualization import assigned, pair  # draws, which no other part of a training does

        assert isinstance(self._model, GeneralizedDETR)
        name = self._cfg.dataloader.test.dataset.name
        metadata, drawn = MetadataCatalog.get(name), {}
        plain, with_objects = (self._mapper(objects) for objects in (False, True))
        for record in self._records(name):
            with evaluating(self._model):
                instances = self._model([plain(record)])[0]["instances"]
            number = record["image_id"]
            drawn[f"predictions/{number}"] = np.asarray(pair(record, instances, LEAST, metadata))
            panels = assigned(self._model, with_objects(record), record, metadata, last=True)
            drawn[f"assignments/{number}"] = panels
        return drawn

    def _mapper(self, objects: bool) -> Any:
        cfg, key = copy.deepcopy(self._cfg), "dataloader.test.mapper"
        OmegaConf.update(cfg, f"{key}.is_train", objects, force_add=True)
        return build(cfg, key)

    def _records(self, name: str) -> list[dict[str, Any]]:
        if self._chosen is None:
            if name not in DatasetCatalog:
                raise MissingFileError(f"dataset '{name}' isn't in Detectron2's catalog")
            dataset = DatasetCatalog.get(name)
            self._chosen = dataset[:: max(1, len(dataset) // self._count)][: self._count]
        return self._chosen


def with_pictures(evaluation: Evaluation, cfg: DictConfig, model: nn.Module) -> Evaluation:
    """Return an evaluation that also draws ``train.pictures`` images, in the main process."""
    if not cfg.train.pictures or not comm.is_main_process():
        return evaluation
    pictures = Pictures(cfg, model, cfg.train.pictures)

    def both() -> Mapping[str, Any]:
        results = evaluation()
        pictures.draw()
        return results

    return both
