"""Weights & Biases: a run's numbers there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import MissingPackageError
from .external import ServiceWriter


class WandbWriter(ServiceWriter):
    """Writes to Weights & Biases; its key and mode come from where that library looks for them.

    Args:
        project: of W&B.
        options: further arguments of ``wandb.init``, such as ``entity``, ``name`` or ``mode``.

    Raises:
        MissingPackageError: wandb isn't installed.
    """

    id_file = "wandb_run_id"

    def __init__(self, project: str, **options: Any):
        super().__init__()
        try:
            import wandb
        except ImportError as error:
            raise MissingPackageError(
                "train.writers has a WandbWriter, which needs wandb: python -m pip install wandb"
            ) from error
        self._wandb = wandb
        self._options = {"project": project, **options}
        self._run: Any = None

    def start(self, run_id: str | None, folder: Path, config: Mapping[str, Any]) -> str:
        """Begin or resume a run of W&B."""
        self._run = self._wandb.init(
            id=run_id, resume="allow", dir=str(folder), config=dict(config), **self._options
        )
        return str(self._run.id)

    def send(self, iteration: int, values: Mapping[str, float]) -> None:
        """Log numbers; of iterations that it has already, W&B keeps the first."""
        self._run.log(dict(values), step=iteration)

    def finish(self) -> None:
        """End the run there."""
        if self._run is not None:
            self._run.finish()
