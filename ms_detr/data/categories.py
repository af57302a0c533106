"""What the classes of a dataset are called: each by a name of its own."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import listed

logger = logging.getLogger(__name__)


def distinct_names(categories: Sequence[Mapping[str, Any]], json_file: str) -> dict[int, str]:
    """Return the names of categories by ascending id, no two of them alike.

    Results, logs and checkpoints know classes by their names, and of two of one name the second
    would take the first one's place. So a name that is empty, or another's but for blanks, gets
    the category's id added.

    Args:
        categories: with ``id`` and ``name``.
        json_file: for the warning.
    """
    plain = {c["id"]: " ".join(c["name"].split()) for c in categories}
    count = Counter(plain.values())
    taken = {name for name in plain.values() if name and count[name] == 1}
    names = {}
    changed = []
    for category in sorted(categories, key=lambda c: c["id"]):
        number, name = category["id"], category["name"]
        if plain[number] not in taken:
            name = f"{plain[number]} (id {number})".strip()
            while name in taken:  # a category may be called like that
                name += "'"
            taken.add(name)
            changed.append(name)
        names[number] = name
    if changed:
        logger.warning(
            "%s: %d categories have no name, or one that another has too; here and in all results "
            "they are %s.",
            json_file,
            len(changed),
            listed(changed, 5),
        )
    return names
