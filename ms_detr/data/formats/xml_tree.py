"""XML of untrusted files, without document types: entities that expand need one."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from ...errors import DataError


def read_xml(path: Path) -> Element:
    """Return the root of an XML file.

    Raises:
        DataError: it is no XML, or has a document type declaration; a phrase without the name.
    """
    builder = TreeBuilder()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = _refuse
    try:
        parser.Parse(path.read_bytes(), True)
        return builder.close()
    except (expat.ExpatError, LookupError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"no XML: {error}") from error


def _refuse(*_: object) -> NoReturn:
    raise DataError("it has a document type declaration (DOCTYPE), which is not read")
