"""Configs: LazyConfig files, with overrides."""

from __future__ import annotations

import builtins
import difflib
import os
import shlex
import traceback
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import LazyConfig
from omegaconf import DictConfig, ListConfig, OmegaConf

from . import paths
from .errors import ConfigError, MissingFileError
from .overrides import apply

LENGTHS = ("train.epochs", "train.max_iter")


def load(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> DictConfig:
    """Load a LazyConfig file and apply overrides.

    Args:
        path: a ``.py`` file; where it isn't found from here, it is looked up in `config_folder`.
            Its name goes where ``train.output_dir`` is null: ``output/{name}``.
        overrides: applied in order; see `ms_detr.overrides`.

    Raises:
        MissingFileError: there is no such file; names the nearest ones.
        ConfigError: a YAML file, an error in the file, an unknown key, or a value that doesn't fit.
    """
    cfg = _load_file(find(path))
    _settle_length(cfg, apply(cfg, overrides))
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
        elif isinstance(value, str) and value.startswith("~" if key in paths.KEYS else "~/"):
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
    if given.is_dir():
        raise MissingFileError(
            f"config {given} is a folder, no .py file; if it holds images and annotations to train "
            f"on: ms-detr train --data {shlex.quote(str(given))}"
        )
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
