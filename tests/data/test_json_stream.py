"""Reading JSON through a window gives what the standard library gives of the whole file."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ms_detr.data import json_stream
from ms_detr.errors import DataError

LISTS = ("images", "annotations")


@pytest.fixture(params=[1, 40, 1 << 20])
def window(request, monkeypatch) -> int:
    """Bytes: every place of a small file is the end of a window some time."""
    monkeypatch.setattr(json_stream, "WINDOW", request.param)
    monkeypatch.setattr(json_stream, "ENTRIES", 3)
    return request.param


def read(path: Path, text: str | bytes, entry_of=dict) -> dict:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    found: dict = {}
    for key, value, more in json_stream.read_members(path, LISTS, entry_of):
        if more:
            found[key] += value
        else:
            found[key] = value
    return found


DOCUMENTS = [
    "{}",
    " { } \n",
    '{"images": [], "annotations": [ ]}',
    '{"images": [{"id": 1},{"id": 2} , {"id": 3}\n,\n{"id": 4}], "annotations": 5}',
    '{"images": [1, 22, 333, -4.5e+10, NaN, -Infinity, true, null, "x"], "info": [1, [2], {}]}',
    '{"images": [{"a": [{"b": 1}, {"c": "}, {"}], "d": {"e": {}}}, {"f": "\\"},{\\ud83d\\ude00"}]}',
    '{"info": {"images": [{"id": 1}]}, "images": {"id": 1}, "annotations": [[{}, {}], [{}, {}]]}',
    '{"long": "' + "x" * 300 + '", "images": [{"s": "' + "}, {" * 50 + '"}, {"n": 123456789}]}',
    '{"annotations": [' + ", ".join(f'{{"id": {i}, "s": {{"n": {i}}}}}' for i in range(40)) + "]}",
]


@pytest.mark.parametrize("text", DOCUMENTS, ids=range(len(DOCUMENTS)))
def test_documents(tmp_path, window, text):
    expected = json.loads(text)
    found = read(tmp_path / "a.json", text)
    assert list(found) == list(expected) and repr(found) == repr(expected)


BROKEN = [
    "",
    " ",
    "{",
    '{"images"',
    '{"images" 1}',
    '{"images": [1 2]}',
    '{"images": [{"id": 1}\n, {"id" 2}, {"id": 3}]}',
    '{"images": [{"id": 1}, {"id": 2}], "info": tru}',
    '{"images": [{"id": 1}, {"id": 2}]} x',
    '{"images": [{"id": 1}, {"id": 2}]',
    '{"images": [{"id": "1}, {"id": 2}]}',
    '{"images": [{"id": 1}], images: 2}',
    '{"images": [{"id": 1}, {"id": "a\nb"}]}',
    "[1, 2",
    "<html>",
]


@pytest.mark.parametrize("text", BROKEN, ids=range(len(BROKEN)))
def test_what_is_wrong_is_said_in_the_same_words(tmp_path, window, text):
    with pytest.raises(ValueError) as expected:
        json.loads(text)
    with pytest.raises(DataError) as error:
        read(tmp_path / "a.json", text)
    assert str(error.value) == f"{tmp_path / 'a.json'} is not a JSON file: {expected.value}"


def test_the_byte_that_is_no_text(tmp_path, window):
    text = b'{"images": [{"id": "k\xc3\xa4se"}, {"id": "k\xe4se"}]}'
    with pytest.raises(DataError, match=f"at byte {text.index(0xE4)}\\.$"):
        read(tmp_path / "a.json", text)


def test_something_else_than_an_object(tmp_path, window):
    for text in ("[1, 2]", "3", "null"):
        assert read(tmp_path / "a.json", text) == {}


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    content=st.dictionaries(st.sampled_from([*LISTS, "info"]), VALUES),
    indent=st.sampled_from([None, 1]),
    ascii_only=st.booleans(),
)
def test_any_document(tmp_path, window, content, indent, ascii_only):
    text = json.dumps(content, indent=indent, ensure_ascii=ascii_only)
    assert read(tmp_path / "a.json", text.encode("utf-8", "replace")) == json.loads(
        text.encode("utf-8", "replace")
    )


def test_a_wrong_value_is_found_without_reading_on(tmp_path, monkeypatch):
    """Or a large file with a fault at its beginning would be held as a whole."""
    monkeypatch.setattr(json_stream, "WINDOW", 100)
    path = tmp_path / "a.json"
    path.write_text('{"images": [{"id" 1}, ' + "{}, " * 10_000 + "{}]}")
    taken = []
    original = json_stream._Window._more

    def more(window):
        taken.append(1)
        return original(window)

    monkeypatch.setattr(json_stream._Window, "_more", more)
    with pytest.raises(DataError, match="line 1 column 19 "):
        list(json_stream.read_members(path, LISTS, dict))
    assert len(taken) < 10
