"""MLflow: a run's numbers there."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import MissingPackageError
from .external import ServiceWriter

LONGEST = 500  # characters of a parameter
FORBIDDEN = re.compile(r"[^\w\-. :/]")  # in a name there; AR@100 and names of classes have some
MOST = 100  # parameters in a request


class MlflowWriter(ServiceWriter):
    """Writes to MLflow.

    Args:
        experiment: its name there; it is made if it is new.
        tracking_uri: of the server or store; None takes MLflow's own settings.
        run_name: None lets MLflow choose one.

    Raises:
        MissingPackageError: mlflow isn't installed.
    """

    id_file = "mlflow_run_id"

    def __init__(
        self, experiment: str, tracking_uri: str | None = None, run_name: str | None = None
    ):
        super().__init__()
        try:
            from mlflow import MlflowClient
            from mlflow.entities import Metric, Param
        except ImportError as error:
            raise MissingPackageError(
                "train.writers has an MlflowWriter, which needs mlflow: python -m pip install "
                "mlflow-skinny"
            ) from error
        self._client_class, self._metric, self._param = MlflowClient, Metric, Param
        self._experiment, self._uri, self._name = experiment, tracking_uri, run_name
        self._client: Any = None
        self._run_id = ""

    def start(self, run_id: str | None, folder: Path, config: Mapping[str, Any]) -> str:
        """Begin a run there, or go on with one."""
        self._client = self._client_class(self._uri)
        if run_id is not None:
            self._client.update_run(run_id, status="RUNNING")
            self._run_id = run_id
            return run_id
        known = self._client.get_experiment_by_name(self._experiment)
        number = known.experiment_id if known else self._client.create_experiment(self._experiment)
        self._run_id = self._client.create_run(number, run_name=self._name).info.run_id
        params = [self._param(key, str(value)[:LONGEST]) for key, value in config.items()]
        for first in range(0, len(params), MOST):
            self._client.log_batch(self._run_id, params=params[first : first + MOST])
        return self._run_id

    def send(self, iteration: int, values: Mapping[str, float]) -> None:
        """Log numbers, in one request."""
        now = self._milliseconds()
        metrics = [
            self._metric(FORBIDDEN.sub("_", name.replace("@", "_at_")), value, now, iteration)
            for name, value in values.items()
        ]
        self._client.log_batch(self._run_id, metrics=metrics)

    def finish(self) -> None:
        """End the run there."""
        if self._run_id:
            self._client.set_terminated(self._run_id)

    @staticmethod
    def _milliseconds() -> int:
        return round(1000 * time.time())
