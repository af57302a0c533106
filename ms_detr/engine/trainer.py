"""The training step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from detectron2.engine import TrainerBase
from detectron2.utils import comm
from torch import Tensor, nn

from ..data.workers import named_worker_errors
from ..errors import NonFiniteError, OutOfMemoryError, listed
from .distribution import divided_by_all, exchange_gradients, without_exchange
from .failures import Buffers, FailedStep, Failures, NotFinite
from .finite import MAX_NAMED, bad_names, largest
from .metrics import TOTAL, RunningMean, term_sums
from .out_of_memory import describe, is_out_of_memory, named
from .out_of_memory import report as report_memory
from .parts import Batch, in_parts
from .precision import Precision
from .progress import AGREEING, BACKWARD, BETWEEN, COUNTING, FORWARD, SAVING, UPDATING, progress
from .timing import timer_of


class Trainer(TrainerBase):
    """Detectron2's loop and hooks around our own step.

    Randomness inside the model (dropout) is seeded by (seed, iteration, rank) in every step, and
    data by (seed, epoch, position): so a run that was resumed is the run that wasn't interrupted,
    and no random state has to be stored.

    Args:
        model: returns ``{name: scalar loss}`` in training; wrapped for distribution if need be.
        loader: yields batches without end, starting with the first iteration to be run.
        clip_grad_norm: largest total norm of the gradient; None clips nothing.
        accumulate: parts of a process's batch that go through the model one after the other. What
            is counted and learnt is the same, see `ms_detr.structures.Step`.
        precision: of the computation; None: that of the weights.
        log_period: losses are read from the device every so many iterations.
        failures: decides what becomes of a step that isn't finite; None: it ends the training.
        asked_to_stop: whether this process should stop training.

    Attributes:
        device: of the model.
        stopping: whether some process was asked to before this step's backward pass; the same in
            all of them.
        skipped: whether the last step was passed over and changed no weights, since it wasn't
            finite or float16's scale was too large for it.
    """

    def __init__(
        self,
        model: nn.Module,
        loader: Iterable[list[dict[str, Any]]],
        optimizer: torch.optim.Optimizer,
        *,
        seed: int = 0,
        clip_grad_norm: float | None = None,
        accumulate: int = 1,
        precision: Precision | None = None,
        log_period: int = 20,
        failures: Failures | None = None,
        asked_to_stop: Callable[[], bool] = bool,
    ):
        super().__init__()
        self.model = model
        self.loader = loader
        self.optimizer = optimizer
        self.seed = seed
        self.clip_grad_norm = clip_grad_norm
        self.accumulate = accumulate
        self.log_period = log_period
        self.failures = failures or Failures()
        self.asked_to_stop = asked_to_stop
        self.stopping = False
        self.skipped = False
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.device = self._parameters[0].device
        self.precision = precision or Precision(self.device)
        self._data_timer = timer_of(self.device)
        self._buffers = Buffers(model)
        self._losses: list[dict[str, Tensor]] = []  # of each part of the step
        self._means = RunningMean()
        self._batches: Iterator[list[dict[str, Any]]] = iter(())

    def before_train(self) -> None:
        """Start the loader's workers."""
        self.model.train()
        self._batches = iter(self.loader)
        super().before_train()

    def after_train(self) -> None:
        """Stop the loader's workers."""
        self._batches = iter(())
        super().after_train()

    def run_step(self) -> None:
        """One iteration.

        Raises:
            NonFiniteError: in all processes, if a loss or the gradient isn't finite in any of
                them, and that step may not be skipped; before the weights are changed.
            OutOfMemoryError: in all processes, if the forward pass of any lacks memory; in that
                process alone, if it lacks it later.
            SystemLimitError: a loader's process has died.
        """
        with named_worker_errors():
            self._step()

    def _step(self) -> None:
        progress.begin(self.iter)
        self._data_timer.reset()
        batch = next(self._batches)
        data_time = self._data_timer.seconds()
        seed = step_seed(self.seed, self.iter, comm.get_rank())
        torch.manual_seed(seed)

        self.optimizer.zero_grad(set_to_none=True)
        progress.enter(COUNTING)
        parts = in_parts(batch, self.accumulate, self.iter / self.max_iter)
        self._buffers.keep()
        trouble = self._attempt(parts, seed)
        if trouble is not None:
            self._undo()
            step = FailedStep(trouble.what, trouble.text, self.iter, seed, parts, self._losses)
            progress.enter(SAVING)
            self.failures.meet(step)
        progress.enter(BETWEEN)
        self._log(data_time)

    def _attempt(self, parts: Sequence[Batch], seed: int) -> NotFinite | None:
        """Learn from a batch, or return why it can't be done; the weights are what they were."""
        self.skipped = True
        try:
            losses = self._learn(parts[-1], parts[:-1])
        except NotFinite as trouble:
            return trouble
        try:
            self.precision.unscale(self.optimizer)
            norm = self._clip()
        except NotFinite as trouble:
            return self._as_seen_alone(trouble, parts, seed)
        progress.enter(UPDATING)
        with self._memory_for("the optimiser's step", [x for part in parts for x in part]):
            self.skipped = not self.precision.step(self.optimizer)
        if not self.skipped:
            self._means.add({**losses, "grad_norm": norm})
        return None

    def _undo(self) -> None:
        """Take back what a step has changed so far."""
        self.optimizer.zero_grad(set_to_none=True)
        self._buffers.restore()

    def _learn(self, last: Batch, before: Sequence[Batch]) -> dict[str, Tensor]:
        """Losses of all parts of a batch together, whose gradients are left with the parameters.

        The processes exchange gradients once, with those of the last part.
        """
        sums: dict[str, Tensor] = {}
        self._losses = []
        for part in (*before, last):
            losses = self._forward(part)
            if part is last:
                exchange_gradients(self.model, losses.values())
            self._backward(losses, part)
            for name, loss in losses.items():
                sums[name] = sums[name] + loss.detach() if name in sums else loss.detach()
        return sums

    def _forward(self, batch: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Return the losses, which are finite in all processes; raises `NotFinite`.

        Memory that is lacking in one is an OutOfMemoryError in all.

        The processes agree before the backward pass and not after it: there they would wait for
        the gradients of one that has failed. Matching has just made the host wait for the device,
        so that reading the flag here costs little; so they agree on stopping at the same time.
        What only the predictions tell is counted over all of them behind that, too.
        """
        losses: dict[str, Tensor] = {}
        trouble = lacking = ""
        progress.enter(FORWARD)
        try:
            with without_exchange(self.model), self.precision.autocast():
                losses = self.model(batch)
            self._losses.append({name: loss.detach() for name, loss in losses.items()})
            bad = ~torch.stack([loss.detach() for loss in losses.values()]).isfinite().all()
        except NonFiniteError as error:
            trouble = str(error)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            lacking = describe(error, batch)
        if trouble or lacking:  # of what the pass held, nothing is left by now
            bad = torch.ones((), dtype=torch.bool, device=self.device)
        progress.enter(AGREEING)
        verdict = largest((4 if lacking else 2) * bad.to(torch.int32) + self.asked_to_stop())
        self.stopping = self.stopping or verdict == 1
        if verdict >= 4:
            last = self.failures.last_checkpoint()
            raise OutOfMemoryError(report_memory("the forward pass", self.iter, lacking, last))
        if verdict > 1:
            raise NotFinite("a loss", trouble or ", ".join(bad_names(losses)))
        return dict(divided_by_all(losses))

    def _backward(self, losses: dict[str, Tensor], part: Batch) -> None:
        """Add the gradients of a part's losses, and their sum to these."""
        progress.enter(BACKWARD)
        with self._memory_for("the backward pass", part):
            losses[TOTAL] = torch.stack([loss.float() for loss in losses.values()]).sum()
            self.precision.backward(losses[TOTAL])

    def _as_seen_alone(self, trouble: NotFinite, parts: Sequence[Batch], seed: int) -> NotFinite:
        """Return a gradient's trouble as known to those processes whose own part gives it.

        After the exchange all see it. Where it comes of no part alone, all still know of it.
        A collective.
        """
        if comm.get_world_size() == 1:
            return trouble
        self._undo()
        torch.manual_seed(seed)
        try:
            names = self._own_bad_gradients(parts)
            text = "gradient of " + listed(names, MAX_NAMED) if names else ""
        except (NonFiniteError, OutOfMemoryError):  # it couldn't look, and may be the one
            text = trouble.text
        progress.enter(AGREEING)
        if not largest(torch.tensor(int(bool(text)), device=self.device)):
            return trouble
        return NotFinite(trouble.what, text)

    def _own_bad_gradients(self, parts: Sequence[Batch]) -> list[str]:
        """Run the step again without an exchange; return whose gradients aren't finite."""
        for part in parts:
            progress.enter(FORWARD)
            memory = self._memory_for("the forward pass", part)
            with memory, without_exchange(self.model), self.precision.autocast():
                losses = self.model(part)
            self._backward(losses, part)
        return bad_names(named_gradients(self.model))

    def _memory_for(self, where: str, batch: Batch) -> AbstractContextManager:
        return named(where, self.iter, batch, self.failures.last_checkpoint)

    def _clip(self) -> Tensor:
        """Clip the gradient, and return its norm before that, which is finite in all processes.

        Where it isn't, and float16's scale is to blame, the step won't be taken; else it raises
        `NotFinite`. To clip by such a norm would spoil all gradients, and hide which are to blame.
        """
        gradients = [x.grad for x in self._parameters if x.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        if not math.isfinite(norm.item()):
            names = bad_names(named_gradients(self.model))
            if names and self.precision.scale_is_to_blame():
                return norm
            self.precision.give_up()
            names = names or ["the sum of squares overflows"]
            raise NotFinite("the gradient", "gradient of " + listed(names, MAX_NAMED))
        limit = math.inf if self.clip_grad_norm is None else self.clip_grad_norm
        nn.utils.clip_grads_with_norm_(self._parameters, limit, norm)
        return norm

    def _log(self, data_time: float) -> None:
        if comm.is_main_process():
            self.storage.put_scalar("data_time", data_time)
        last = self.iter + 1 == self.max_iter
        if (self.iter + 1) % self.log_period == 0 or last:
            means = self._means.read()
            if comm.is_main_process():
                values = {**means, **term_sums(means)}
                if self.precision.may_overflow():
                    values["amp_skipped"] = self.precision.skipped
                values |= self.failures.scalars()
                self.storage.put_scalars(**values, smoothing_hint=False)


def named_gradients(model: nn.Module) -> dict[str, Tensor]:
    """Return the gradients that there are, by the parameters' names in the bare model."""
    return {
        name.removeprefix("module."): parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def step_seed(seed: int, iteration: int, rank: int) -> int:
    """Return a seed of its own for every step of every process."""
    low, high = np.random.SeedSequence((seed, iteration, rank)).generate_state(2)
    # Torch takes 63 bits without a sign.
    return (int(high) << 32 | int(low)) & (2**63 - 1)
