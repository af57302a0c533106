"""Configs: LazyConfig files, and overrides that are checked.

Detectron2 adds a misspelt key silently and the training runs without the setting; here an unknown
key is an error that names the nearest ones.
"""

from __future__ import annotations

import builtins
import difflib
import os
import re
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import LazyConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from . import paths
from .errors import ConfigError, MissingFileError

# Names of keys whose values are paths.
PATHS = ("output_dir", "init_checkpoint", "images", "annotations")
LENGTHS = ("train.epochs", "train.max_iter")


def load(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> DictConfig:
    """Load a LazyConfig file and apply overrides.

    Args:
        path: a ``.py`` file; where it isn't found from here, it is looked up in `config_folder`.
            Its name goes where ``train.output_dir`` is null: ``output/{name}``.
        overrides: in Hydra's grammar, applied in order. ``key=value`` changes a key
            (``key=null`` drops a sub-tree), ``+key=value`` adds one, ``~key`` removes one. A path
            is taken as it stands, whatever signs it holds.

    Raises:
        MissingFileError: there is no such file; names the nearest ones.
        ConfigError: a YAML file, an error in the file, an unknown key, or a value that doesn't fit.
    """
    cfg = _load_file(find(path))
    given: dict[str, Any] = {}
    for text in overrides:
        given.update(_apply(cfg, text))
    _settle_length(cfg, given)
    if OmegaConf.select(cfg, "train.output_dir", default="") is None:
        cfg.train.output_dir = f"output/{Path(path).stem}"
    expand_paths(cfg)
    return cfg


def expand_paths(node: DictConfig | ListConfig) -> None:
    """Put the home folder where a value starts with ``~``, in place: see `ms_detr.paths`."""
    keys: Iterable[Any] = list(node.keys()) if isinstance(node, DictConfig) else range(len(node))
    for key in keys:
        if OmegaConf.is_missing(node, key) or OmegaConf.is_interpolation(node, key):
            continue
        value = node[key]
        if OmegaConf.is_config(value):
            expand_paths(value)
        elif isinstance(value, str) and value.startswith("~" if key in PATHS else "~/"):
            node[key] = paths.expand(value)


def _settle_length(cfg: DictConfig, given: Mapping[str, Any]) -> None:
    """Of two keys that say how long to train, the one that was given takes the other's place.

    Raises:
        ConfigError: both were given.
    """
    named = [key for key in LENGTHS if given.get(key) is not None]
    if len(named) > 1:
        both = " and ".join(f"{key}={given[key]}" for key in named)
        raise ConfigError(f"{both} both say how long to train: give one of them")
    for key in LENGTHS:
        if named and key not in named and OmegaConf.select(cfg, key) is not None:
            OmegaConf.update(cfg, key, None)


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


def config_folder() -> Path:
    """The folder of the configs that come with ms_detr."""
    package = Path(__file__).parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def find(path: str | os.PathLike[str]) -> Path:
    """The file of a config: as given, else below `config_folder`, with or without ``configs/``."""
    given = Path(paths.expand(path))
    if given.suffix in (".yaml", ".yml"):
        raise ConfigError(
            f"config {given}: YAML configs are not loaded, because Detectron2 reads them with a "
            "loader that can run code from the file; give the .py file and overrides instead"
        )
    folder = config_folder()
    inside = Path(*given.parts[1:]) if given.parts[:1] == ("configs",) else given
    for candidate in (given, folder / inside):
        if candidate.suffix == ".py" and candidate.is_file():
            return candidate
    files = [file.relative_to(folder) for file in folder.rglob("*.py")]
    known = sorted(f"configs/{file}" for file in files)
    wanted = str(Path("configs") / inside)
    nearest = difflib.get_close_matches(wanted, known, n=3, cutoff=0.4)
    hint = f"; the nearest are {', '.join(nearest)}" if nearest else ""
    problem = "not found" if given.suffix == ".py" else "is not a .py file"
    raise MissingFileError(f"config {given} {problem}{hint} (shipped configs lie in {folder})")


def to_text(cfg: DictConfig) -> str:
    """A config as YAML, for people to read. It can't be loaded again, and is never loaded."""
    content = _plain(OmegaConf.to_container(cfg, resolve=False))
    return yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=100)


def describe(
    path: str | os.PathLike[str], overrides: Sequence[str], cfg: DictConfig
) -> dict[str, Any]:
    """What a checkpoint keeps of its config: file, overrides and text, all plain types."""
    return {"file": str(path), "overrides": list(overrides), "text": to_text(cfg)}


def _load_file(file: Path) -> DictConfig:
    # Detectron2 0.4 leaves its patched __import__ behind when a config raises.
    original = builtins.__import__
    try:
        return LazyConfig.load(str(file))
    except Exception as error:
        raise ConfigError(f"config {file}{_told(error, file)}") from error
    finally:
        builtins.__import__ = original


def _told(error: Exception, file: Path) -> str:
    """Line, kind and message of an error in a config file, and what to do about a usual one."""
    if isinstance(error, SyntaxError) and isinstance(cause := error.__cause__, SyntaxError):
        return f": {error} Line {cause.lineno}: {cause.msg}"  # the first names the file of a part
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(file)]
    where = f", line {lines[-1]}" if lines else ""
    hint = ""
    # Detectron2's error about a relative import has no name.
    relative = isinstance(error, ImportError) and error.name is None
    if relative and config_folder() not in file.resolve().parents:
        hint = " A config elsewhere than in configs/ imports ms_detr.recipes: see docs/configs.md."
    return f"{where}: {type(error).__name__}: {error}{hint}"


def _apply(cfg: DictConfig, text: str) -> dict[str, Any]:
    """Apply one override, in place; what it says of each key, those of a mapping included."""
    override = _parse(text)
    key, value = override.key_or_group, override.value()
    try:
        if override.is_delete():
            parent, name = _locate(cfg, key)
            del parent[name]
            return {key: None}
        elif override.is_add():
            _add(cfg, key, value)
        else:
            _change(cfg, key, value)
    except OmegaConfBaseException as error:
        raise ConfigError(f"override '{text}': {str(error).splitlines()[0]}") from error
    except ConfigError as error:
        raise ConfigError(f"override '{text}': {error}") from None
    return dict(_leaves(key, value))


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
    named = key.rpartition(".")[2] in PATHS and value not in ("", "null")
    return not quoted and (named or value.startswith("~"))


def _in_quotes(value: str) -> str:
    """A text in Hydra's quotes, where a backslash counts only if a quote comes behind it."""
    inner = re.sub(r'(\\*)"', r'\1\1\\"', value)
    last = inner[len(inner.rstrip("\\")) :]
    return f'"{inner}{last}"'


def _read(text: str) -> Override:
    quoted = text
    if _is_plain_path(text):
        key, _, path = text.partition("=")
        quoted = f"{key}={_in_quotes(path)}"
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


def _plain(value: Any) -> Any:
    """Containers and scalars as they are, everything else by name; ``_target_`` first."""
    if isinstance(value, dict):
        names = sorted(value, key=lambda name: name != "_target_")
        return {name: _plain(value[name]) for name in names}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    return repr(value)
