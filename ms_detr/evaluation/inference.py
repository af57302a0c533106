"""Run a model over a dataset."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.evaluation import DatasetEvaluator, inference_on_dataset
from torch import nn


def evaluate(
    model: nn.Module, loader: Iterable[list[dict[str, Any]]], evaluator: DatasetEvaluator
) -> Mapping[str, Any]:
    """Predict on all images and evaluate; logs progress and the time left.

    Args:
        model: the bare model; left in the mode (training or not) that it came in.
        loader: has a length; yields this process's part of the dataset.

    Returns:
        The evaluator's results in the main process, nothing in the others.
    """
    training = model.training
    try:
        return inference_on_dataset(model, loader, evaluator)
    finally:
        model.train(training)  # Detectron2 0.4 doesn't go back after an error


def metrics_of(evaluator: DatasetEvaluator) -> list[str]:
    """Names of the metrics that an evaluator will yield, as ``bbox/AP``; none if it can't tell."""
    tell = getattr(evaluator, "metrics", None)
    return list(tell()) if callable(tell) else []


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode without gradients while the block lasts."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)
