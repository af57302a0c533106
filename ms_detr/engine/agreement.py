"""What the main process does for all of them: done well in all, or an error in all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from detectron2.utils import comm

from ..errors import SystemLimitError, UserError
from ..locks import hold


def in_main_process(work: Callable[[], Any]) -> None:
    """Call ``work`` in the main process, while the others wait. A collective.

    Raises:
        UserError, OSError: in all processes, if the main one raises it: else the others would
            wait for one that is gone.
    """
    problem: Exception | None = None
    if comm.is_main_process():
        try:
            work()
        except (UserError, OSError) as error:
            problem = error
    raise_in_all(problem)


def raise_in_all(problem: Exception | None) -> None:
    """Raise what the main process has met, if anything, in all processes. A collective."""
    found = comm.all_gather(problem)[0]
    if found is not None:
        raise problem or found


@contextmanager
def alone(folder: str | Path) -> Iterator[None]:
    """Keep a run's folder from other runs. All processes must enter together.

    Raises:
        ConfigError: another run has it.
        SystemLimitError: the folder, which is ``train.output_dir``, can't be made or written to.
    """
    with ExitStack() as stack:

        def take() -> None:
            try:
                stack.enter_context(hold(folder))
            except OSError as error:
                raise SystemLimitError(
                    f"train.output_dir {folder} can't be written to: {error.strerror}"
                ) from error

        in_main_process(take)
        yield
