"""Pickles of arrays: read in every form that picklers write, and nothing else of them."""

import collections
import os
import pickle
import struct
import sys

import numpy as np
import pytest
import torch

from ms_detr.engine import read_checkpoint
from ms_detr.engine.pickles import MAX_STEPS, MAX_TUPLES, _Unpickler, read_pickle
from ms_detr.errors import CheckpointError

ARRAYS = {
    "weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "half": np.float16([0.5, -2]),
    "big": np.array([1, 2**40], dtype=">i8"),
    "bytes": np.arange(256, dtype=np.uint8),
    "empty": np.zeros((0, 4), np.float32),
    "none": np.array(7, np.int64),
    "scalar": np.float32(0.1),
    "flags": np.array([True, False]),
    "view": np.arange(12, dtype=np.float32).reshape(3, 4).T[1:],
}


def written(tmp_path, content, name="a.pkl"):
    data = content if isinstance(content, bytes) else pickle.dumps(content, 2)
    (tmp_path / name).write_bytes(data)
    return tmp_path / name


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("wrap", [dict, collections.OrderedDict])
def test_values_in_every_protocol(tmp_path, protocol, wrap):
    content = {"model": wrap(ARRAYS), "__author__": "somebody", "matching_heuristics": True}
    found = read_checkpoint(written(tmp_path, pickle.dumps(content, protocol)))
    assert found["__author__"] == "somebody"
    assert found["model"].keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        native = np.ascontiguousarray(array).reshape(array.shape)
        expected = torch.from_numpy(np.array(native.astype(native.dtype.newbyteorder("="))))
        assert found["model"][name].dtype == expected.dtype
        assert torch.equal(found["model"][name], expected), name


def test_files_of_python_2(tmp_path):
    """Texts and bytes are one kind there: an array of two float32 as its cPickle wrote it."""
    data = struct.pack("<2f", 0.1, -200.0)
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03K\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nq\x04U\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tb\x89U\x08" + data + b"tb"
    )
    program = b"\x80\x02}q\x01(U\x05blobs}U\x07conv1_w" + array + b"su."
    found = read_pickle(written(tmp_path, program))["model"]["conv1_w"]
    assert torch.equal(found, torch.tensor([0.1, -200.0]))


class Call:
    def __init__(self, function, *args, state=None):
        self.reduced = (function, args) if state is None else (function, args, state)

    def __reduce__(self):
        return self.reduced


def trap(tmp_path):
    return str(tmp_path / "trap")


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    "function", [os.mkdir, eval, getattr, np.load, np.frombuffer, torch.load, np.vectorize]
)
def test_no_code_runs(tmp_path, function, protocol):
    data = pickle.dumps({"model": {"a": Call(function, trap(tmp_path))}}, protocol)
    with pytest.raises(CheckpointError, match="could run code from the file"):
        read_checkpoint(written(tmp_path, data))
    assert not os.path.exists(trap(tmp_path))


PROTOCOL, NDARRAY = b"\x80\x02", b"cnumpy\nndarray\n"
MAKE, TYPE = b"cnumpy.core.multiarray\n_reconstruct\n", b"cnumpy\ndtype\n"
F4 = TYPE + b"X\x02\x00\x00\x00f4\x85R"
EMPTY = MAKE + b")R"


def big(number):
    return b"\x8a\x08" + struct.pack("<q", number)


HOSTILE = {
    "huge shape": EMPTY + b"(K\x01" + big(2**40) + b"\x85" + F4 + b"\x89U\x04abcdtb",
    "negative shape": EMPTY + b"(K\x01" + big(-1) + b"\x85" + F4 + b"\x89U\x04abcdtb",
    "long shape": EMPTY + b"(K\x01(" + b"K\x01" * 99 + b"t" + F4 + b"\x89U\x04abcdtb",
    "shape of a bool": EMPTY + b"(K\x01\x88\x85" + F4 + b"\x89U\x04abcdtb",
    "object array": EMPTY + b"(K\x01K\x01\x85" + TYPE + b"X\x01\x00\x00\x00O\x85R\x89]tb",
    "list as bytes": EMPTY + b"(K\x01K\x01\x85" + F4 + b"\x89]tb",
    "no type": EMPTY + b"(K\x01K\x01\x85N\x89U\x04abcdtb",
    "state of a few": EMPTY + b"(K\x01tb",
    "no state": EMPTY,
    "type with arguments": TYPE + b"X\x0a\x00\x00\x00f4,(9,9)f4\x85R",
    "type of a type": TYPE + F4 + b"\x85R",
    "order of a type": F4 + b"(K\x03U\x01?NtbK\x00",
    "array made at once": NDARRAY + big(2**40) + b"\x85\x85R",
    "new array": NDARRAY + b")\x81",
    "changed call": MAKE + b"}X\x08\x00\x00\x00__call__Nsb",
    "changed slots": MAKE + b"N}X\x09\x00\x00\x00_functionNs\x86b",
    "call of an array": EMPTY + b")R",
    "many bytes": b"c__builtin__\nbytes\n" + big(2**40) + b"\x85R",
    "another codec": b"c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00hex\x86R",
    "attribute": b"cnumpy.core.multiarray\n_reconstruct.__globals__\n",
    "protocol 4 attribute": b"\x8c\x05numpy\x8c\x0fndarray.tofile.x\x93",
    "persistent": b"Psomething\n",
    "extension": b"\x82\x01",
    "place in the memo": b"Nr\xff\xff\xff\xff",
    "frame": b"\x95" + struct.pack("<Q", 2**62),
    "long bytes": b"\x8e" + struct.pack("<Q", 2**62),
    "empty stack": b"s",
}


@pytest.mark.parametrize("program", HOSTILE.values(), ids=HOSTILE.keys())
def test_programs_that_no_pickler_writes(tmp_path, program):
    """As the weight of a model, since it is read there, and a file must have one."""
    whole = PROTOCOL + b"}X\x05\x00\x00\x00model}X\x01\x00\x00\x00a" + program + b"ss."
    with pytest.raises(CheckpointError, match=r"a\.pkl can't be read") as error:
        read_checkpoint(written(tmp_path, whole))
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize(
    "program",
    [
        b")" + b"\x85" * (MAX_TUPLES + 1) + b".",  # hashed, it would overflow the stack
        b")" + b"\x85" * (10 * MAX_TUPLES) + b"0}.",
        b"]" + b"]a" * MAX_STEPS + b".",
        b"}" + b"".join(b"c_codecs\nencode\n" for _ in range(9)) + b".",
    ],
    ids=["tuples", "forgotten tuples", "steps", "stack"],
)
def test_programs_without_an_end(tmp_path, program):
    with pytest.raises(CheckpointError, match=r"a\.pkl can't be read"):
        read_checkpoint(written(tmp_path, PROTOCOL + program))


def test_deep_tuples_are_hashed_in_time(tmp_path):
    """As deep as it may be."""
    deep = b"}" + b")" + b"\x85" * (MAX_TUPLES - 1) + b"Ns."
    with pytest.raises(CheckpointError, match="can't be read|no weights"):
        assert read_pickle(written(tmp_path, PROTOCOL + deep)) == {"model": {}}
        raise CheckpointError("no weights")


def test_many_arrays_of_the_same_bytes(tmp_path):
    """A gigabyte out of a megabyte."""
    content = bytes(2**20)
    make = b"cnumpy.core.numeric\n_frombuffer\n"
    kind = TYPE + b"X\x02\x00\x00\x00i1\x85R"
    data = b"B" + struct.pack("<I", len(content)) + content
    shape = b"J" + struct.pack("<i", len(content)) + b"\x85"
    first = data + b"q\x00"
    items = b"".join(
        b"X\x04\x00\x00\x00" + f"{n:04}".encode() + make + b"(" + (b"h\x00" if n else first)
        + kind + shape + b"X\x01\x00\x00\x00CtR" for n in range(1000)
    )  # fmt: skip
    with pytest.raises(CheckpointError, match="its arrays are larger than the file"):
        read_checkpoint(written(tmp_path, b"\x80\x03}(" + items + b"u."))


@pytest.mark.parametrize("content", [[1], {"model": [1]}, {"model": {"a": 1}}, {}, "text"])
def test_no_weights(tmp_path, content):
    from ms_detr.engine.weights import read_weights

    with pytest.raises(CheckpointError, match="can't be read|holds no weights"):
        read_weights(written(tmp_path, content))


def test_the_stand_ins_are_all_that_it_finds():
    """Names of numpy that call, or that lead further, are none of them."""
    reader = _Unpickler(b"")
    for module in [name for name in sys.modules if name.split(".")[0] in ("numpy", "builtins")]:
        for name in dir(sys.modules[module]):
            try:
                found = reader.find_class(module, name)
            except Exception as error:
                assert "could run code" in str(error)
            else:
                assert type(found).__name__ == "_Call" and not hasattr(found, "__dict__")
