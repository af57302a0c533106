"""A config file of choices, which every verb takes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..config import config_folder, find
from ..files import write_text
from ..locks import hold
from ..overrides import in_quotes
from ..paths import KEYS
from ..run_folder import OWN_CONFIG
from .choices import Choice

TEMPLATE = '''"""Written by `ms-detr train --data`, for {source}.

All verbs take it as they take any config. It may be changed as long as nothing is trained.
"""

from pathlib import Path

from ms_detr.config import load

_base = load(
    {base},
    [
{overrides}
    ],
)
model, dataloader = _base.model, _base.dataloader
train, optimizer, lr_multiplier = _base.train, _base.optimizer, _base.lr_multiplier
train.output_dir = str(Path(__file__).resolve().parent)
'''


def overrides_of(choices: Iterable[Choice], said: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the overrides of choices, without keys that somebody has set, and what each is of."""
    return [
        (f"{key}={_text(key, value)}", choice.what)
        for choice in choices
        for key, value in choice.keys.items()
        if key not in said
    ]


def write_config(
    folder: Path, source: Path, base: str, chosen: Sequence[tuple[str, str]], given: Sequence[str]
) -> Path:
    """Write the config of a run into its folder, unless it is there already as it would be.

    Args:
        source: the data.
        base: the config that is changed.
        chosen: overrides, and what they are about.
        given: overrides of whoever asked.

    Raises:
        ConfigError: another run has the folder.
        OSError: the folder can't be written to.
    """
    pairs = [*chosen, *((text, "given") for text in given)]
    lines = [f"        {_literal(text)},  # {about}" for text, about in pairs]
    text = TEMPLATE.format(
        source=json.dumps(str(source), ensure_ascii=False).replace("\\", "/"),
        base=_literal(base_name(base)),
        overrides="\n".join(lines),
    )
    path = folder / OWN_CONFIG
    if not path.is_file() or path.read_bytes() != text.encode():
        with hold(folder):
            write_text(path, text)
    return path


def base_name(base: str) -> str:
    """Return a shipped config by its name, and any other by its whole path."""
    file, shipped = find(base).resolve(), config_folder().resolve()
    return file.relative_to(shipped).as_posix() if shipped in file.parents else str(file)


def _text(key: str, value: Any) -> str:
    """A value in the grammar of overrides."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        is_plain = value and (key.rpartition(".")[2] in KEYS or re.fullmatch(r"[A-Za-z_]+", value))
        return value if is_plain else in_quotes(value)
    return str(value)


def _literal(text: str) -> str:
    """A text as Python has it, in double quotes if need be."""
    return json.dumps(text, ensure_ascii=False) if '"' not in text else repr(text)
