"""What somebody asks for: a folder, and how it is to be read. In a config ``dataloader.own``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ..data.formats import Options
from ..data.formats.splits import check_shares
from ..errors import ConfigError, MissingFileError
from ..overrides import values
from ..paths import expand

NODE = "dataloader.own"
OPTIONS = tuple(each.name for each in fields(Options))
KEYS = ("folder", "split", "form", "converted", *OPTIONS)


@dataclass(frozen=True)
class Request:
    """A folder of data.

    Args:
        folder: of any form that `ms_detr.data.formats.recognise` knows.
        split: shares in which all images are divided anew, see `ms_detr.data.formats.splits`; None
            takes the folder's splits, and makes them where it has none.
        form: its name, or auto.
        converted: where data are kept that had to be converted; None: beside the run's folder.
        options: how they are read.

    Raises:
        ConfigError: the shares are no shares.
        MissingFileError: there is no such folder.
    """

    folder: Path
    split: Sequence[float] | None = None
    form: str = "auto"
    converted: Path | None = None
    options: Options = field(default_factory=Options)

    def __post_init__(self) -> None:
        if self.split is not None:
            check_shares(self.split)
        if not self.folder.is_dir():
            what = "is a file: give the folder in which it lies" if self.folder.exists() else ""
            raise MissingFileError(f"--data {self.folder} {what or 'is not there'}")

    @property
    def name(self) -> str:
        """The folder's, of letters, digits, ``_`` and ``-`` of any script."""
        return re.sub(r"[^\w-]+", "_", self.folder.resolve().name).strip("_") or "data"


def request_of(overrides: Sequence[str]) -> tuple[Request | None, list[str]]:
    """Take the keys of ``dataloader.own`` out of overrides.

    Returns:
        What they ask for, None where they name no folder; and the other overrides.

    Raises:
        ConfigError: there is no such key, or its value is of another kind.
    """
    said = _said(overrides)
    others = [text for text in overrides if not _said([text])]
    if said.get("folder") is None:
        return None, list(overrides)
    split = said.get("split")
    if split is not None and not isinstance(split, list):
        split = [split]
    if split is not None and not all(type(share) in (int, float) for share in split):
        raise ConfigError(f"{NODE}.split is {split}: give the share of train, as 0.8")
    converted = said.get("converted")
    return Request(
        Path(expand(str(said["folder"]))),
        split,
        str(said.get("form") or "auto"),
        None if converted is None else Path(expand(str(converted))),
        _options(said),
    ), others


def _options(said: Mapping[str, Any]) -> Options:
    given = {name: said[name] for name in OPTIONS if said.get(name) is not None}
    classes = given.get("classes")
    if classes is not None and not (
        isinstance(classes, list) and all(isinstance(name, str) for name in classes)
    ):
        raise ConfigError(f"{NODE}.classes is {classes}: give a list of names, as [cat,dog]")
    return Options(**given)


def _said(overrides: Sequence[str]) -> Mapping[str, Any]:
    """What overrides say of the node's keys."""
    found = {
        key.removeprefix(f"{NODE}."): value
        for key, value in values(overrides).items()
        if key.startswith(f"{NODE}.")
    }
    if unknown := found.keys() - {*KEYS}:
        raise ConfigError(
            f"unknown config key '{NODE}.{unknown.pop()}'; known are {', '.join(KEYS)}"
        )
    return found
