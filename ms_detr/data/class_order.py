"""The order of a dataset's classes where weights bring one along."""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from ..errors import DataError, listed

logger = logging.getLogger(__name__)

MAX_NAMED = 20


class OtherClassesError(DataError):
    """A dataset hasn't the classes that weights were trained on."""


def in_order_of(
    classes: Mapping[int, str], wanted: Sequence[str], name: str
) -> tuple[dict[int, str], bool]:
    """Put a dataset's classes into the order in which weights know them.

    Args:
        classes: names by category id.
        wanted: names in the order of the weights' class scores.
        name: of the dataset, for messages.

    Returns:
        The classes in that order, and whether it differs from the one given.

    Raises:
        OtherClassesError: the names differ, or can't tell the classes apart.
    """
    names, wanted = list(classes.values()), list(wanted)
    if names == wanted:
        return dict(classes), False
    ours, theirs = Counter(names), Counter(wanted)
    if ours != theirs:
        raise OtherClassesError(
            f"dataset '{name}' has other classes than the weights: {_quoted(ours - theirs)} only "
            f"in the dataset, {_quoted(theirs - ours)} only in the weights. They are matched by "
            "name: correct the categories' names in the annotation file, or take other weights"
        )
    twice = [name for name, count in ours.items() if count > 1]
    if twice:
        raise OtherClassesError(
            f"dataset '{name}' has its classes in another order than the weights, and "
            f"{_quoted(twice)} more than once: give every category a name of its own"
        )
    id_of = {name: category for category, name in classes.items()}
    return {id_of[name]: name for name in wanted}, True


def completed(classes: Mapping[int, str], wanted: Sequence[str], json_file: str) -> dict[int, str]:
    """Add the classes of ``wanted`` that a file lacks, under ids of no category of it.

    A file of other classes, or with a name twice, is left as it is.
    """
    names = list(classes.values())
    missing = [name for name in wanted if name not in set(names)]
    if not missing or not set(names) <= set(wanted) or len(set(names)) < len(names):
        return dict(classes)
    logger.info(
        "%s: lacks the categories %s, %d of %d; their AP is nan, the others are matched by name",
        json_file, _quoted(missing), len(missing), len(wanted),
    )  # fmt: skip
    # Below zero: a results file has them as category_id, where they must not be another's.
    free = (number for number in itertools.count(-1, -1) if number not in classes)
    return {**classes, **dict(zip(free, missing, strict=False))}


def check_order(names: Sequence[str], wanted: Sequence[str], name: str) -> None:
    """Raise OtherClassesError unless a loaded dataset has the classes in the order of weights."""
    _, moved = in_order_of(dict(enumerate(names)), wanted, name)
    if moved:
        raise OtherClassesError(
            f"dataset '{name}' has its classes in the order {_quoted(names)}, the weights in the "
            f"order {_quoted(wanted)}, and it is loaded by a function without the argument "
            "'classes', which could set it: change the order there"
        )


def _quoted(names: Iterable[str]) -> str:
    return listed(map(repr, names), MAX_NAMED) or "none"
