"""What a trained model knows about its own use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Usage:
    """How images become inputs of a model, and what its classes are called.

    Attributes:
        mapper: the mapper of the test images, see `ms_detr.data.DetrMapper`.
        batch_size: so many images at most are predicted together.
        class_names: by the number of the class; empty where the weights tell none.
    """

    mapper: Any
    batch_size: int
    class_names: tuple[str, ...] = ()


class Usable:
    """A model that can be told its usage; `ms_detr.load_model` does so."""

    _usage: Usage | None = None

    @property
    def usage(self) -> Usage | None:
        """The usage that the model was told, if it was."""
        return self._usage

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, by their number; empty where they are unknown."""
        return self._usage.class_names if self._usage else ()

    def set_usage(self, usage: Usage) -> None:
        """Tell the model how it is used."""
        self._usage = usage
