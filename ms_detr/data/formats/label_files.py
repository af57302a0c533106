"""What files of labels hold: text, JSON, XML; whatever they are, in bounded time and memory.

Errors are phrases, to which whoever calls adds the file's name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from ...errors import DataError
from ...files import reason
from ..json_stream import read_members

LONG = ("images", "annotations")  # lists that may be of millions


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


def top_keys(path: Path) -> Iterator[str]:
    """Yield the keys of the object that a JSON file holds, as they are come upon; of a list none.

    Raises:
        DataError: it is no JSON as far as it was read.
    """
    if not path.is_file():
        raise DataError(f"{path} is no file")
    try:
        for key, _, is_further in read_members(path, LONG, lambda _: None):
            if not is_further:
                yield key
    except OSError as error:
        raise DataError(f"{path} can't be read: {reason(error)}") from error


def _content(path: Path) -> bytes:
    if not path.is_file():  # reading a pipe waits for ever
        raise DataError("no file")
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(reason(error)) from error


def _refuse(*_: object) -> NoReturn:
    raise DataError("it has a document type declaration (DOCTYPE), which is not read")
