"""Overrides of a config, in Hydra's grammar, and checked.

``key=value`` changes a key (``key=null`` drops a sub-tree), ``+key=value`` adds one, ``~key``
removes one. A path is taken as it stands, whatever signs it holds. Detectron2 adds a misspelt key
silently and the training runs without the setting; here an unknown key is an error that names the
nearest ones.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from .errors import ConfigError
from .paths import KEYS


def apply(cfg: DictConfig, texts: Sequence[str]) -> dict[str, Any]:
    """Apply overrides in order, in place.

    Returns:
        What they say of each key: see `values`.

    Raises:
        ConfigError: one can't be read, names an unknown key, or has a value that doesn't fit.
    """
    overrides = []
    for text in texts:
        override = _parse(text)
        overrides.append(override)
        key, value = override.key_or_group, override.value()
        try:
            if override.is_delete():
                parent, name = _locate(cfg, key)
                del parent[name]
            elif override.is_add():
                _add(cfg, key, value)
            else:
                _change(cfg, key, value)
        except OmegaConfBaseException as error:
            raise ConfigError(f"override '{text}': {str(error).splitlines()[0]}") from error
        except ConfigError as error:
            raise ConfigError(f"override '{text}': {error}") from None
    return _said(overrides)


def values(texts: Sequence[str]) -> dict[str, Any]:
    """Return what overrides say of each key, those of a mapping included; None if it is removed.

    Raises:
        ConfigError: one can't be read.
    """
    return _said(map(_parse, texts))


def _said(overrides: Iterable[Override]) -> dict[str, Any]:
    said: dict[str, Any] = {}
    for override in overrides:
        value = None if override.is_delete() else override.value()
        said.update(_leaves(override.key_or_group, value))
    return said


def expand(text: str) -> list[str]:
    """The overrides that one stands for: ``key=1,2`` for ``key=1`` and ``key=2``.

    Hydra's grammar has ``key=range(1,4)`` as well. One that has a single value stands for itself.
    A comma in a path needs quotes here.

    Raises:
        ConfigError: it can't be read, or its values can't be listed.
    """
    if _is_plain_path(text):
        key, _, listed = text.partition("=")
        return [f"{key}={path}" for path in listed.split(",")]
    override = _read(text)
    if not override.is_sweep_override():
        return [text]
    try:
        values = list(override.sweep_string_iterator())
    except HydraException as error:
        raise ConfigError(f"override '{text}' has no list of values ({error})") from None
    return [f"{override.get_key_element()}={value}" for value in values]


def _leaves(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _leaves(f"{key}.{name}", inner)
    else:
        yield key, value


def _is_plain_path(text: str) -> bool:
    """Whether an override gives a path and has it in no quotes."""
    key, _, value = text.partition("=")
    quoted = value[:1] in ("'", '"') and value[-1:] == value[:1]
    named = key.rpartition(".")[2] in KEYS and value not in ("", "null")
    return not quoted and (named or value.startswith("~"))


def in_quotes(value: str) -> str:
    """A text in Hydra's quotes, where a backslash counts only if a quote comes behind it."""
    inner = re.sub(r'(\\*)"', r'\1\1\\"', value)
    last = inner[len(inner.rstrip("\\")) :]
    return f'"{inner}{last}"'


def _read(text: str) -> Override:
    quoted = text
    if _is_plain_path(text):
        key, _, path = text.partition("=")
        quoted = f"{key}={in_quotes(path)}"
    try:
        return OverridesParser.create().parse_override(quoted)
    except HydraException as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"override '{text}' can't be read ({reason}): write key=value, and quote a value "
            "with special signs twice: 'key=\"value\"'"
        ) from None


def _parse(text: str) -> Override:
    override = _read(text)
    if override.is_force_add() or override.is_sweep_override() or override.package is not None:
        raise ConfigError(
            f"override '{text}': write key=value to change a key, +key=value to add one, ~key to "
            "remove one, and key=[a,b] for a list"
        )
    return override


def _locate(cfg: DictConfig, key: str) -> tuple[Any, str | int]:
    """The node that holds ``key``, and the key's name in it."""
    *path, last = key.split(".")
    node: Any = cfg
    for depth, name in enumerate(path):
        passed, place = ".".join(path[: depth + 1]), _name_in(cfg, node, name, key, last=False)
        _expect_no_link(node, place, passed, ".".join((*path[depth + 1 :], last)))
        node = node[place]
        if not OmegaConf.is_config(node):
            raise ConfigError(f"{passed} is {_kind(node)} and has no keys below it")
    return node, _name_in(cfg, node, last, key)


def _expect_no_link(node: Any, place: str | int, passed: str, rest: str) -> None:
    """Raise ConfigError if what lies at a place is another place's: it would change there, too."""
    if not OmegaConf.is_interpolation(node, place):
        return
    written: Any = OmegaConf.to_container(node, resolve=False)
    target = str(written[place]).removeprefix("${").removesuffix("}")
    if ":" in target:  # computed
        raise ConfigError(f"{passed} follows from other keys ({target}): set it as a whole")
    raise ConfigError(
        f"{passed} is a link: set {target}.{rest}, which changes both, or give {passed} a node of "
        "its own in a config file"
    )


def _name_in(
    cfg: DictConfig, node: DictConfig | ListConfig, name: str, key: str, last: bool = True
) -> str | int:
    if isinstance(node, ListConfig):
        if name.isdecimal() and int(name) < len(node):
            return int(name)
    elif name in node.keys():  # noqa: SIM118  (`in node` is False for a mandatory value, ???)
        return name
    nearest = _nearest(key, _dotted_keys(cfg))
    hint = f"; did you mean {' or '.join(nearest)}?" if nearest else ""
    if last and isinstance(node, DictConfig):  # else the + would fail as well
        hint += f"{'' if nearest else ';'} (+{key}=value adds a new key)"
    raise ConfigError(f"unknown config key '{key}'{hint}")


def _add(cfg: DictConfig, key: str, value: Any) -> None:
    path, _, name = key.rpartition(".")
    parent: Any = cfg
    if path:
        grandparent, parent_name = _locate(cfg, path)
        _expect_no_link(grandparent, parent_name, path, name)
        parent = grandparent[parent_name]
    if not isinstance(parent, DictConfig):
        raise ConfigError(f"{path} is {_kind(parent)}; a key can only be added to a mapping")
    if name in parent.keys():  # noqa: SIM118
        raise ConfigError(f"{key} is there already; write {key}=... without the + to change it")
    parent[name] = value


def _change(cfg: DictConfig, key: str, value: Any) -> None:
    parent, name = _locate(cfg, key)
    old = _value(parent, name)
    if isinstance(old, DictConfig) and isinstance(value, Mapping):
        for inner, inner_value in value.items():
            _change(cfg, f"{key}.{inner}", inner_value)
        return
    parent[name] = _fit(key, old, value)
    if isinstance(value, str) and "${" in value:
        _fit(key, old, parent[name])  # raises for a link to nowhere, or to another type


def _value(parent: Any, name: str | int) -> Any:
    """The present value, None where it is mandatory (???) or a link that leads nowhere yet."""
    if OmegaConf.is_missing(parent, name):
        return None
    try:
        return parent[name]
    except InterpolationResolutionError:
        return None


def _fit(key: str, old: Any, new: Any) -> Any:
    """``new``, as the type of ``old`` where nothing is lost by that."""
    if old is None or new is None or (isinstance(new, str) and "${" in new):
        return new
    if isinstance(old, (DictConfig, ListConfig)):
        wanted: type = Mapping if isinstance(old, DictConfig) else Sequence
        fits = isinstance(new, wanted) and not isinstance(new, str)
    elif isinstance(old, bool) or isinstance(new, bool):
        fits = isinstance(old, bool) and isinstance(new, bool)
    elif isinstance(old, int) and isinstance(new, float) and new.is_integer():
        return int(new)  # 1e3
    elif isinstance(old, float) and isinstance(new, int):
        return float(new)
    elif isinstance(old, (int, float, str)):
        fits = isinstance(new, type(old))
    else:
        return new  # an object, such as a class
    if fits:
        return new
    hint = "; a text that looks like a number needs quotes" if isinstance(old, str) else ""
    raise ConfigError(f"{key} is {_kind(old)}, got {_kind(new)}{hint}")


def _kind(value: Any) -> str:
    """A value and its type, for messages."""
    if isinstance(value, (Mapping, DictConfig)):
        return "a mapping (only null can take its place)"
    if isinstance(value, (ListConfig, list, tuple)):
        return f"a list ({list(value)})"
    if value is None:
        return "null"
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name} ({value!r})"


def _dotted_keys(cfg: DictConfig) -> list[str]:
    def walk(node: Any, prefix: str) -> Iterator[str]:
        items = node.items() if isinstance(node, dict) else enumerate(node)
        for name, child in items:
            yield f"{prefix}{name}"
            if isinstance(child, (dict, list)):
                yield from walk(child, f"{prefix}{name}.")

    return list(walk(OmegaConf.to_container(cfg, resolve=False), ""))


def _nearest(key: str, keys: Sequence[str]) -> list[str]:
    """Keys that end in ``key`` (somebody left out the front), then those of similar spelling."""
    ends = [known for known in keys if known.endswith(f".{key}")]
    close = difflib.get_close_matches(key, keys, n=2, cutoff=0.8)
    if not ends + close:
        close = difflib.get_close_matches(key, keys, n=2, cutoff=0.5)
    return list(dict.fromkeys(ends + close))[:3]
