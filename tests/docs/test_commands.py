"""Every command and every config key of the documentation, held to parsers and configs."""

import argparse
import functools
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from ms_detr.cli import _parse, build_parser, verbs
from ms_detr.cli._tasks import named_config
from ms_detr.config import load
from ms_detr.meta_arch import GeneralizedDETR
from ms_detr.overrides import expand

from .pages import DOCS, PAGES, ROOT, Block, blocks, commands, inline, name_of

KEY = r"(?:model|dataloader|train|optimizer|lr_multiplier)\.[\w.]+"
OVERRIDE = re.compile(rf"\+?{KEY}=.*")
# Configs that together have every key that a page may speak of.
CONFIGS = (
    "bccd/ms_detr_fading.py",
    "ms_detr/ms_detr_r50_300q_12ep.py",
    "ms_detr/ms_detr_pp_swin_t_300q_12ep.py",
    "ms_detr/ms_detr_group_pp_r50_300q_12ep.py",
    "ms_detr/ms_detr_hybrid_pp_r50_300q_12ep.py",
    "dino/dino_r50_4scale_12ep.py",
    "co_detr/co_dino_r50_5scale_12ep.py",
    "smca/smca_r50_300q_50ep.py",
    "sam_detr/sam_detr_multi_scale_r50_300q_12ep.py",
    "demo/ms_detr_masks.py",
)
CHOSEN = "demo/small_masks.py"  # for data
# Where a page stands for a config of the reader's, for overrides, or for what may be left out.
PLACEHOLDERS = {
    "CONFIG": CONFIGS[0], "FORMAT": "auto", "key=a,b,c": "model.num_queries=1,2,3"
}  # fmt: skip
OPTIONAL = re.compile(r"\[key=value|\.\.\.\]")
# Configs that pages tell their reader to write.
WRITTEN = {block.name for block in blocks("python") if block.name}
MAKEFILE = (ROOT / "Makefile").read_text()


@functools.cache
def takes(config: str, override: str) -> bool:
    """Whether a config has the key and takes the value."""
    try:
        load(config, [override])
    except ValueError:
        return False
    return True


def check_override(override: str) -> None:
    assert any(takes(config, override) for config in CONFIGS), override


def check_config(config: str, overrides: Sequence[str]) -> None:
    """A config of a page takes its overrides; for one of the reader's, others have their keys."""
    if config in WRITTEN or re.fullmatch(r"output/\w+/config\.py", config):  # of data of one's own
        if "/" not in config:  # of one in the package a test of its own takes the overrides
            for override in overrides:
                check_override(override)
        return
    path = ROOT / "configs" / config.removeprefix("configs/")
    assert path.is_file(), f"there is no {config}"
    load(path, [expand(override)[0] for override in overrides])


def check_ms_detr(words: list[str]) -> None:
    try:
        args = _parse(build_parser(), words)
    except SystemExit:
        raise AssertionError(f"not a command: ms-detr {shlex.join(words)}") from None
    for config, overrides in configs_of(words, args):
        check_config(config, overrides)


def configs_of(words: list[str], args: argparse.Namespace) -> list[tuple[str, Sequence[str]]]:
    """The configs of a command, with their overrides."""
    if words[0] == "train" and args.data is not None:
        words = [word for word in (args.config, *args.opts) if word is not None]
        return [(args.config_file or CHOSEN, words)]
    if words[0] == "train":
        return [named_config(args)]
    if words[0] in ("compare", "analyze"):
        return [(config, overrides) for _, config, *overrides in args.runs]
    if words[:2] == ["visualize", "candidates"]:
        return [(config, args.opts) for _, config, _ in args.runs]
    if words[:2] in (["benchmark", "step"], ["benchmark", "model"]):
        return [(config, args.opts) for config in args.configs if "*" not in config]
    config = getattr(args, "config_file", None) or getattr(args, "config", None)
    return [(config, args.opts)] if config else []


def check_make(words: list[str]) -> None:
    assert re.search(rf"^\.PHONY: {words[0]}$", MAKEFILE, re.MULTILINE), words
    for variable in words[1:]:
        assert re.search(rf"\b{variable.partition('=')[0]}\b", MAKEFILE), variable


def check(words: list[str]) -> None:
    """One command, whatever runs it, or the overrides of one."""
    while re.fullmatch(r"[A-Z_0-9]+=.*", words[0]):  # variables of its environment
        words = words[1:]
    if OVERRIDE.fullmatch(words[0]):
        for override in words:
            check_override(override)
        return
    words = [PLACEHOLDERS.get(word, word) for word in words if not OPTIONAL.match(word)]
    match words:
        case [("ms-detr" | ".venv/bin/ms-detr"), *rest]:
            check_ms_detr(rest)
        case ["srun", *rest]:
            check(rest)
        case ["[", *_]:  # a batch script's own
            pass
        case ["torchrun", "--nproc-per-node", _, "train_net.py", *rest]:
            check_ms_detr(["train", *rest])
        case ["torchrun", "--nproc-per-node", _, "-m", "ms_detr", *rest]:
            check_ms_detr(rest)
        case ["python", "train_net.py", *rest]:
            check_ms_detr(["train", *rest])
        case ["python", "tools/lazyconfig_train_net.py", "--config-file", config, *rest]:
            check_config(config, [word for word in rest if OVERRIDE.fullmatch(word)])
        case ["python", script, *_] if script.endswith(".py"):
            assert (ROOT / script).is_file(), script
        case ["make", *rest]:
            check_make(rest)
        case ["pip", "install" | "wheel", *_] | ["python", "-m", "pip", "install", *_]:
            pass
        case ["git", "clone", address]:
            assert address.startswith("https://github.com/")
        case ["docker", "build", "-f", file, "-t", _, "."]:
            assert (ROOT / file).is_file(), file
        case ["docker", "run", *options, "doctor"]:
            assert options
        case ["docker", "run", *_, "train", config]:
            check_ms_detr(["train", config])
        case ["pytest", test, *_]:
            assert (ROOT / test).exists(), test
        case _:
            raise AssertionError(f"nothing here knows this kind of command: {shlex.join(words)}")


@pytest.mark.parametrize("block", blocks("bash"), ids=str)
def test_commands_in_blocks(block: Block):
    for words in commands(block):
        check(words)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_in_the_text(page: Path):
    for code in inline(page):
        if not code.startswith(("ms-detr ", "make ", "python ", "pytest ")):
            continue
        words = shlex.split(code)
        if words[0] == "ms-detr" and len(words) <= 3 and "-" not in words[-1][:1]:
            assert words[1] in verbs(), code  # its name, without arguments
        elif "VERB" not in words and "VIEW" not in words:
            check(words)


def all_commands(parser: argparse.ArgumentParser, start: tuple = ()) -> Iterator[tuple[str, ...]]:
    """Every verb, those of several parts by part."""
    parts = [x for x in parser._actions if isinstance(x, argparse._SubParsersAction)]
    for part in parts:
        for name, inner in part.choices.items():
            yield from all_commands(inner, (*start, name))
    if not parts:
        yield start


def test_the_command_lines_page_has_every_command():
    block, *_ = blocks("bash", DOCS / "command_line.md")
    listed = [tuple(words[1:]) for words in commands(block)]
    for command in all_commands(build_parser()):
        assert any(words[: len(command)] == command for words in listed), command


def keys_of(node: dict, prefix: str = "") -> Iterator[str]:
    """Every key of a config, in full."""
    for name, value in node.items():
        yield f"{prefix}{name}"
        if isinstance(value, dict):
            yield from keys_of(value, f"{prefix}{name}.")


@functools.cache
def all_keys() -> frozenset[str]:
    nodes = [OmegaConf.to_container(load(config), resolve=False) for config in CONFIGS]
    return frozenset(key for node in nodes for key in keys_of(node))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_keys_in_the_text(page: Path):
    for text in " ".join(inline(page)).split():
        if OVERRIDE.fullmatch(text):
            check_override(text)
        elif re.fullmatch(KEY, text):
            names = [r"\w+" if name == "X" else name for name in text.split(".")]
            found = [key for key in all_keys() if re.fullmatch(r"\.".join(names), key)]
            # `model.forward_tensors` is Python.
            assert found or hasattr(GeneralizedDETR, names[-1]), text
