"""Writers that hand a run's numbers to a service: `train.writers`."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.utils import comm
from detectron2.utils.events import EventWriter, get_event_storage
from omegaconf import DictConfig, OmegaConf

from ..errors import ConfigError
from ..files import reason, write_text
from .building import build

logger = logging.getLogger(__name__)


class ServiceWriter(EventWriter):
    """Sends each logged number once, under the iteration that it belongs to.

    A run keeps its id in a file of its folder, so that a resumed one goes on there and not in a new
    one. It is made in every process, and begun in the main process alone. Whatever goes wrong once
    it has begun is said once, and the training goes on without it.
    """

    id_file: str  # in the run's folder

    def __init__(self) -> None:
        self._sent: dict[str, int] = {}
        self._working = False

    @abstractmethod
    def start(self, run_id: str | None, folder: Path, config: Mapping[str, Any]) -> str:
        """Begin a run of the service, or go on with one, and return its id."""

    @abstractmethod
    def send(self, iteration: int, values: Mapping[str, float]) -> None:
        """Hand numbers over. Iterations rise."""

    @abstractmethod
    def finish(self) -> None:
        """End the run of the service."""

    def begin(self, folder: Path, config: Mapping[str, Any]) -> None:
        """Start, with the id that the folder keeps, if it does, and keep it there."""
        file = folder / self.id_file
        known = file.read_text(encoding="utf-8").strip() if file.is_file() else None
        self._working = True
        with _Guard(self):
            write_text(file, self.start(known, folder, config))

    def write(self) -> None:
        """Send what is new."""
        with _Guard(self):
            for iteration, values in sorted(self._news().items()):
                self.send(iteration, values)

    def close(self) -> None:
        """Finish, unless something was in the way."""
        with _Guard(self):
            if self._working:
                self.finish()
        self._working = False

    def _news(self) -> dict[int, dict[str, float]]:
        """What was logged since the last call, by iteration, which counts from 0."""
        news: dict[int, dict[str, float]] = {}
        if not self._working:
            return news
        for name, (value, iteration) in get_event_storage().latest().items():
            if self._sent.get(name, -1) < iteration:
                self._sent[name] = iteration
                news.setdefault(iteration, {})[name] = float(value)
        return news

    def give_up(self, error: Exception) -> None:
        """Say what is in the way, and do no more."""
        if self._working:
            logger.error("%s: %s: training goes on without", type(self).__name__, reason(error))
        self._working = False


class _Guard:
    """Keeps a service's errors from a training. Any library may raise anything."""

    def __init__(self, writer: ServiceWriter):
        self._writer = writer

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        if isinstance(error, Exception):
            self._writer.give_up(error)
            return True
        return False


def service_writers(cfg: DictConfig) -> list[ServiceWriter]:
    """Make the writers that ``train.writers`` lists. Nothing is sent yet.

    Raises:
        MissingPackageError: a writer's package isn't installed.
        ConfigError: something else is listed, or can't be made.
    """
    made = build(cfg, "train.writers")
    for each in made:
        if not isinstance(each, ServiceWriter):
            raise ConfigError(
                f"train.writers lists {type(each).__name__}: it takes objects such as "
                "L(WandbWriter)(project=...) of ms_detr.engine"
            )
    return list(made)


def begin_writers(writers: Sequence[ServiceWriter], folder: Path, cfg: DictConfig) -> None:
    """Begin all, in the main process."""
    if not (writers and comm.is_main_process()):
        return
    plain = {
        key: value
        for key in ("train", "optimizer")
        for key, value in _flat(OmegaConf.to_container(cfg[key], resolve=False), f"{key}.").items()
    }
    for writer in writers:
        writer.begin(folder, plain)


def _flat(node: Any, prefix: str) -> dict[str, Any]:
    """The plain values of a config by their keys."""
    found: dict[str, Any] = {}
    for name, value in node.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{name}.")
        elif isinstance(value, (str, int, float, bool)) and not isinstance(name, type):
            found[f"{prefix}{name}"] = value
    return found
