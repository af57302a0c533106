"""What files of labels hold: text, JSON, XML; whatever they are, in bounded time and memory.

Errors are phrases, to which whoever calls adds the file's name.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NoReturn
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from ...errors import DataError
from ...files import reason

SNIFFED = 1 << 16  # bytes at either end


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text in UTF-8 without blanks around them, and without empty ones.

    Raises:
        DataError: it is no such text.
    """
    try:
        text = _content(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"no text in UTF-8: {error.reason} at byte {error.start}") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def read_json(path: Path) -> Any:
    """Return what a JSON file in UTF-8, UTF-16 or UTF-32 holds; it may hold NaN.

    Raises:
        DataError: it is no JSON.
    """
    try:
        return json.loads(_content(path))
    except RecursionError:
        raise DataError("nested too deeply") from None
    except UnicodeDecodeError as error:
        raise DataError(f"no text in UTF-8: {error.reason} at byte {error.start}") from error
    except ValueError as error:
        raise DataError(f"no JSON: {error}") from error


def read_xml(path: Path) -> Element:
    """Return the root of an XML file without a document type, which expanding entities need.

    Raises:
        DataError: it is no XML, or has a document type declaration.
    """
    builder = TreeBuilder()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = _refuse
    content = _content(path)
    try:
        parser.Parse(content, True)
    except DataError:
        raise
    except (expat.ExpatError, LookupError, ValueError) as error:  # of its syntax, its encoding
        raise DataError(f"no XML: {error}") from error
    return builder.close()


def has_keys(path: Path, *keys: str) -> bool:
    """Tell whether keys stand near the beginning or the end of a JSON file."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        text = file.read(SNIFFED)
        file.seek(max(file.seek(0, os.SEEK_END) - SNIFFED, 0))
        text += file.read(SNIFFED)
    text = text.replace(b"\0", b"")  # of UTF-16
    return all(f'"{key}"'.encode() in text for key in keys)


def _content(path: Path) -> bytes:
    if not path.is_file():  # reading a pipe waits for ever
        raise DataError("no file")
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(reason(error)) from error


def _refuse(*_: object) -> NoReturn:
    raise DataError("it has a document type declaration (DOCTYPE), which is not read")
