"""JSON files of any form, and what they may be by their first and last characters."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ...errors import DataError

SNIFFED = 1 << 16  # bytes at either end


def read_json(path: Path) -> Any:
    """Return what a JSON file in UTF-8, UTF-16 or UTF-32 holds; it may hold NaN.

    Raises:
        DataError: it is no JSON; a phrase without the file's name.
    """
    try:
        return json.loads(path.read_bytes())
    except RecursionError:
        raise DataError("nested too deeply") from None
    except ValueError as error:
        raise DataError(f"no JSON: {error}") from error


def has_keys(path: Path, *keys: str) -> bool:
    """Tell whether keys stand near the beginning or the end of a JSON file."""
    with path.open("rb") as file:
        text = file.read(SNIFFED)
        file.seek(max(file.seek(0, os.SEEK_END) - SNIFFED, 0))
        text += file.read(SNIFFED)
    text = text.replace(b"\0", b"")  # of UTF-16
    return all(f'"{key}"'.encode() in text for key in keys)
