"""Pickled weights, as Detectron2's model zoo has them, read without running what they name.

A pickle is a program that calls what it imports. Here it can import stand-ins alone, which do
nothing but remember: an array's type, shape and bytes. What it says is checked before any memory
is taken, and arrays are made at the end.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import pickletools
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import CheckpointError, one_line

SUFFIX = ".pkl"
# What picklers write for numbers, texts, containers, and what is made by a call.
NAMES = """
PROTO FRAME MARK STOP POP POP_MARK EMPTY_DICT DICT SETITEM SETITEMS EMPTY_LIST LIST APPEND APPENDS
EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1
LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE SHORT_BINUNICODE BINUNICODE
BINUNICODE8 SHORT_BINBYTES BINBYTES BINBYTES8 BYTEARRAY8 GET BINGET LONG_BINGET PUT BINPUT
LONG_BINPUT MEMOIZE GLOBAL STACK_GLOBAL REDUCE BUILD
"""
OPCODES = frozenset(NAMES.split())
PUTS = ("PUT", "BINPUT", "LONG_BINPUT")
# A ResNet takes ten thousand steps. Places in the memo are memory that an unpickler takes at once;
# tuples within tuples are hashed by recursion, which is not bounded.
MAX_STEPS = 1_000_000
MAX_TUPLES = 20_000
MAX_SIZE = 2**48  # of an array along an axis
TYPE = re.compile(r"[fiu][1248]|b1")
CODE = (
    "it holds more than arrays and plain values ({}), and reading it could run code from the file, "
    "so it is refused"
)


def read_pickle(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the arrays of a pickled file: those under ``model``, ``blobs`` or in it by name.

    Returns:
        ``model``, tensors by name; and ``__author__``, where the file names one.

    Raises:
        CheckpointError: the file holds more than arrays and plain values, or can't be read.
    """
    data = Path(path).read_bytes()
    try:
        _check(data)
        content = _Unpickler(data).load()
        if not isinstance(content, dict):
            raise _Refused("it is no dict")
        author = content.get("__author__")
        named = next((content[key] for key in ("model", "blobs") if key in content), content)
        if not isinstance(named, dict):
            raise _Refused("its weights are no dict")
        model = _tensors(named, len(data))
    except _Refused as error:
        raise CheckpointError(f"{path} can't be read: {error}") from error
    except Exception as error:  # an unpickler raises whatever its program leads it to
        raise CheckpointError(f"{path} can't be read as a pickle: {one_line(error)}") from error
    return {"model": model, **({"__author__": author} if isinstance(author, str) else {})}


class _Refused(Exception):
    """What the file may not be."""


def _check(data: bytes) -> None:
    """Look at each step of the program before it runs."""
    tuples = 0
    for step, (opcode, argument, _) in enumerate(pickletools.genops(data)):
        if opcode.name not in OPCODES:
            raise _Refused(CODE.format(opcode.name))
        tuples += opcode.name.startswith("TUPLE")
        far = opcode.name in PUTS and not 0 <= int(argument or 0) <= MAX_STEPS
        if step > MAX_STEPS or tuples > MAX_TUPLES or far:
            raise _Refused("it takes more steps than any weights need")


class _Unpickler(pickle.Unpickler):
    """Knows arrays and plain containers, by stand-ins."""

    def __init__(self, data: bytes):
        super().__init__(io.BytesIO(data), encoding="latin1")
        self._room = len(data)  # for texts that become bytes

    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in of a name."""
        place = module.replace("numpy._core", "numpy.core")
        known: dict[tuple[str, str], Callable[..., Any]] = {
            ("numpy.core.multiarray", "_reconstruct"): lambda *_: _Array(),
            ("numpy.core.multiarray", "scalar"): _scalar,
            ("numpy.core.numeric", "_frombuffer"): _from_buffer,
            ("numpy", "ndarray"): _forbidden,
            ("numpy", "dtype"): _Type,
            ("collections", "OrderedDict"): dict,
            ("_codecs", "encode"): self._encode,
            ("__builtin__", "bytes"): _no_bytes,
        }
        if (place, name) not in known:
            raise _Refused(CODE.format(f"{module}.{name}"))
        return _Call(known[place, name])

    def persistent_load(self, pid: Any) -> Any:
        """Refuse what lies elsewhere."""
        raise _Refused(CODE.format("objects outside of it"))

    def _encode(self, text: str, encoding: str = "latin1") -> bytes:
        """Bytes as Python 3 writes them for Python 2."""
        self._room -= len(text)
        if encoding not in ("latin1", "latin-1") or self._room < 0:
            raise _Refused("its bytes are not those of arrays")
        return text.encode("latin1")


class _Call:
    """What a program may call. It has no state that the program could change."""

    __slots__ = ("_function",)
    _function: Callable[..., Any]

    def __init__(self, function: Callable[..., Any]):
        object.__setattr__(self, "_function", function)

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setattr__(self, name: str, value: Any) -> None:
        raise _Refused("it changes what it calls")

    def __setstate__(self, state: Any) -> None:
        raise _Refused("it changes what it calls")


def _no_bytes() -> bytes:
    """What an empty text of bytes is written as."""
    return b""


def _forbidden(*_: Any) -> Any:
    raise _Refused("it makes arrays in an unknown way")


class _Type:
    """An array's type, by its short name such as f4."""

    __slots__ = ("_name", "_order")

    def __init__(self, name: str, *_: Any):
        if not isinstance(name, str) or not TYPE.fullmatch(name):
            raise _Refused(f"an array is of type {str(name)[:20]!r}")
        self._name, self._order = name, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order, *_ = state[1:]
        if order not in ("<", ">", "=", "|"):
            raise _Refused("an array's bytes have an unknown order")
        self._order = order

    def numpy(self) -> np.dtype:
        return np.dtype(f"{self._order}{self._name}")


class _Array:
    """An array that isn't made yet."""

    __slots__ = ("_content", "_fortran", "_shape", "_type")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, fortran, content = state
        self.fill(content, kind, shape, bool(fortran))

    def fill(self, content: Any, kind: Any, shape: Any, fortran: bool) -> None:
        """Take the bytes of an array, a text of as many letters, in its type and shape."""
        if not isinstance(kind, _Type) or not isinstance(content, (bytes, bytearray, str)):
            raise _Refused("an array is not of numbers")
        if not isinstance(shape, tuple) or not all(
            type(n) is int and 0 <= n < MAX_SIZE for n in shape
        ):
            raise _Refused("an array has no shape")
        if len(shape) > 8 or math.prod(shape) * kind.numpy().itemsize != len(content):
            raise _Refused(f"an array {shape[:8]} has {len(content)} bytes")
        self._content, self._type, self._shape, self._fortran = content, kind, shape, fortran

    def nbytes(self) -> int:
        return len(self._content)

    def tensor(self) -> Tensor:
        content = self._content
        data = content.encode("latin1") if isinstance(content, str) else bytes(content)
        array = np.frombuffer(data, self._type.numpy())
        array = array.reshape(self._shape, order="F" if self._fortran else "C")
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C"))


def _from_buffer(content: Any, kind: Any, shape: Any, order: Any, *_: Any) -> _Array:
    array = _Array()
    array.fill(content, kind, shape, order == "F")
    return array


def _scalar(kind: Any, content: Any) -> _Array:
    return _from_buffer(content, kind, (), "C")


def _tensors(named: Mapping[Any, Any], most: int) -> dict[str, Tensor]:
    """The arrays by name, each made once; together they can't be larger than the file."""
    arrays = {id(value): value for value in named.values() if isinstance(value, _Array)}
    if sum(array.nbytes() for array in arrays.values()) > most:
        raise _Refused("its arrays are larger than the file")
    made = {key: array.tensor() for key, array in arrays.items()}
    return {
        str(name): made[id(value)] for name, value in named.items() if isinstance(value, _Array)
    }
