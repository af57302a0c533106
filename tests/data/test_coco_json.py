"""Annotation files as other programs, other systems and accidents leave them."""

import copy
import itertools
import json
import logging
import math
import os
from typing import Any

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from ms_detr.data import coco_dataset
from ms_detr.errors import short_message


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]
)
def test_encodings(folder, encoding):
    """Windows writes a byte order mark, and PowerShell UTF-16."""
    folder.content["categories"][1]["name"] = "小さい"
    records = folder.load()
    folder.json.write_text(json.dumps(folder.content, ensure_ascii=False), encoding=encoding)
    assert coco_dataset(folder.name, folder.images, folder.json) == records
    assert MetadataCatalog.get(folder.name).thing_classes[0] == "小さい"


def test_another_encoding(folder):
    folder.content["categories"][1]["name"] = "Käfer"
    folder.json.write_bytes(json.dumps(folder.content, ensure_ascii=False).encode("latin-1"))
    with pytest.raises(ValueError, match=r"json is not a JSON file in UTF-8: .* at byte \d+"):
        coco_dataset(folder.name, folder.images, folder.json)


DEEP = "[" * 200_000 + "]" * 200_000


@pytest.mark.parametrize("where", ["info", "bbox", "segmentation", "iscrowd", "id"])
def test_deep_nesting(folder, where):
    """Too deep for Python's JSON, or only for who prints it."""
    for text in (DEEP, "[" * 900 + "1" + "]" * 900):
        annotation = folder.content["annotations"][0]
        folder.content["info" if where == "info" else "extra"] = 0
        annotation[where] = "HERE"
        if where == "info":
            folder.content["info"] = "HERE"
        folder.json.write_text(json.dumps(folder.content).replace('"HERE"', text))
        for masks in (False, True):
            try:
                coco_dataset(folder.name, folder.images, folder.json, masks)
            except ValueError as error:
                assert short_message(error) is not None and len(str(error)) < 1000
            else:
                assert text != DEEP
    folder.json.write_text(DEEP)
    with pytest.raises(ValueError, match="nested too deeply"):
        coco_dataset(folder.name, folder.images, folder.json)


def put(kind: str, index: int, key: str, value: Any):
    def damage(content):
        content[kind][index][key] = value

    return damage


HUGE = 10**400
BAD = {
    "width infinite": (put("images", 0, "width", math.inf), r"images\[0\] has width = inf"),
    "width nan": (put("images", 0, "width", math.nan), "whole numbers of pixels above 0"),
    "width 0": (put("images", 0, "width", 0), "has width = 0 and height = 20: they are whole"),
    "width negative": (put("images", 1, "width", -30), r"images\[1\] has width = -30"),
    "width half": (put("images", 0, "width", 30.5), "has width = 30.5"),
    "width a bool": (put("images", 0, "width", True), "width = True, not a number"),
    "width huge": (put("images", 0, "width", HUGE), "more pixels than any image"),
    "height huge": (put("images", 0, "height", 1e300), "more pixels than any image"),
    "height a string": (put("images", 0, "height", "20"), "height = '20', not a number"),
    "file_name empty": (put("images", 0, "file_name", ""), "file_name = '', which names no file"),
    "file_name a folder": (put("images", 0, "file_name", "deep/"), "which names no file"),
    "file_name a list": (put("images", 0, "file_name", ["b.png"]), "file_name = .*, not a string"),
    "file_name half a letter": (put("images", 0, "file_name", "\ud83d.png"), "is no line of text"),
    "file_name zero": (put("images", 0, "file_name", "b\0.png"), "is no line of text"),
    "file_name of lines": (put("images", 0, "file_name", "a\nb.png"), "is no line of text"),
    "name half a letter": (put("categories", 2, "name", "\ud83d"), r"categories\[2\] has name"),
    "id a bool": (put("annotations", 0, "id", True), "id = True, not a whole number"),
    "id a float": (put("images", 0, "id", 7.0), "id = 7.0, not a whole number"),
    "id nan": (put("images", 0, "id", math.nan), "id = nan, not a whole number"),
    "id huge": (put("images", 1, "id", HUGE), "'images' has an id of 401 digits"),
    "id of 65 bits": (put("annotations", 1, "id", -(2**63)), "has an id of 19 digits"),
    "category a list": (put("annotations", 0, "category_id", [90]), "not a whole number"),
    "bbox of bools": (put("annotations", 0, "bbox", [True] * 4), "bbox .* not four numbers"),
    "bbox huge": (put("annotations", 0, "bbox", [0, 0, HUGE, 1]), "bbox .* not four numbers"),
    "bbox nested": (put("annotations", 0, "bbox", [[1, 2, 3, 4]]), "bbox .* not four numbers"),
    "bbox of null": (put("annotations", 2, "bbox", [None] * 4), "annotation 5 has bbox"),
    "iscrowd a list": (put("annotations", 0, "iscrowd", [1]), r"iscrowd = \[1\], not 0 or 1"),
    "test-dev": (lambda content: content.pop("annotations"), "'annotations', as COCO's test-dev"),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "message"), BAD.values(), ids=BAD)
def test_bad_values(folder, damage, message):
    damage(folder.content)
    with pytest.raises(ValueError, match=message) as error:
        folder.load()
    text = short_message(error.value)
    assert text is not None and str(folder.json) in text and len(text) < 600


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('"annotations":', '"annotations": [], "annotations":', "file has the key 'annotations'"),
        (
            '"bbox": [1',
            '"bbox": [9, 9, 9, 9], "bbox": [1',
            "entry of id 1 has the key 'bbox' twice",
        ),
        ('"info":', '"info": 1, "info":', None),
    ],
)
def test_a_key_twice(folder, before, after, message):
    """Python's JSON takes the last."""
    folder.content["info"] = "nobody reads this"
    text = json.dumps(folder.content)
    folder.json.write_text(text.replace(before, after, 1))
    if message is None:
        assert len(coco_dataset(folder.name, folder.images, folder.json)) == 2
        return
    with pytest.raises(ValueError, match=message):
        coco_dataset(folder.name, folder.images, folder.json)


def test_image_files_elsewhere(folder, tmp_path):
    """What a path names counts, not how it is written; a folder is no image."""
    images = folder.content["images"]
    images[0]["file_name"] = str(folder.images / "b.png")
    images[1]["file_name"] = f"../{folder.images.name}/a.png"
    assert all(os.path.samefile(r["file_name"], folder.images / f"{name}.png")
               for r, name in zip(folder.load(), "ab", strict=True))  # fmt: skip
    (folder.images / "c.png").mkdir()
    for name, message in {
        "/nowhere/b.png": r"/nowhere/b\.png\. Absolute paths are not looked for",
        "deep\\b.png": r"deep\\b\.png\. .* write / instead of",
        "x" * 3000 + ".png": r": x{120}\.\.\.$",
        "c.png": r": c\.png$",
    }.items():
        images[0]["file_name"] = name
        folder.write()
        with pytest.raises(FileNotFoundError, match=rf"^1 image file.*{message}"):
            coco_dataset(folder.name, folder.images, folder.json, check_images=False)
    for name in ("..", ".", "/", "../", "c.png", "c.png/."):
        images[0]["file_name"] = name
        with pytest.raises((FileNotFoundError, ValueError)) as error:
            folder.load()
        assert short_message(error.value) is not None


# ------------------------------------------------------------------------------- at random

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.sampled_from([2**31, 2**63, -(2**64), 10**400, 1e308, -1e308, 5e-324])
    | st.floats()
    | st.text(max_size=3)
    | st.sampled_from(["\ud800", "\0", "/", "..", "b.png", "/b.png", "1", "NaN"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["id", "bbox", "size", "counts", "segmentation"]), inner)
    ),
    max_leaves=6,
)


def places(node: Any, path: tuple = ()) -> list[tuple]:
    """The paths of everything in nested lists and dicts."""
    items = node.items() if isinstance(node, dict) else enumerate(node)
    found = []
    for key, value in items:
        found.append((*path, key))
        if isinstance(value, (dict, list)):
            found += places(value, (*path, key))
    return found


def mutate(draw, content: dict) -> None:
    """Replace, remove, double or swap something."""
    paths = places(content)
    if not paths:
        return
    *path, key = draw(st.sampled_from(paths))
    parent = content
    for step in path:
        parent = parent[step]
    match draw(st.sampled_from(["replace", "remove", "double", "wrap"])):
        case "replace":
            parent[key] = draw(VALUES)
        case "remove":
            del parent[key]
        case "double" if isinstance(parent, list):
            parent.append(copy.deepcopy(parent[key]))
        case _:
            parent[key] = [parent[key]]


def with_masks(content: dict) -> dict:
    runs = coco_mask.encode(np.asfortranarray(np.eye(20, 30, dtype=np.uint8)))
    first, crowd, last = content["annotations"]
    first["segmentation"] = [[1, 2, 11, 2, 11, 7, 1, 7], [-5, 3, 2, 3, 2, 4]]
    crowd["segmentation"] = {"size": [20, 30], "counts": runs["counts"].decode()}
    last["segmentation"] = {"size": [20, 30], "counts": [510, 90]}
    return content


numbers = itertools.count()


def load_anything(folder, text: bytes, masks: bool) -> None:
    """Load a file: records that can be used, or an error of ours in one line."""
    folder.json.write_bytes(text)
    name = f"random_{next(numbers)}"
    try:
        records = coco_dataset(name, folder.images, folder.json, masks)
    except (ValueError, FileNotFoundError) as error:
        message = short_message(error)
        assert message is not None and "\n" not in message and len(message) < 2000, message
        message.encode()
    else:
        for record in records:
            assert os.path.isfile(record["file_name"])
            assert record["width"] >= 1 and record["height"] >= 1
            for annotation in record["annotations"]:
                assert np.isfinite(annotation["bbox"]).all() and min(annotation["bbox"][2:]) > 0
                assert annotation["category_id"] in range(len(MetadataCatalog.get(name)
                                                              .thing_classes))  # fmt: skip
                assert not masks or annotation["segmentation"] is not None
        DatasetCatalog.pop(name)
        MetadataCatalog.pop(name)


fuzzed = settings(
    max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)


@fuzzed
@given(data=st.data(), masks=st.booleans(), count=st.integers(1, 3))
def test_any_change_of_the_content(folder, caplog, data, masks, count):
    caplog.set_level(logging.CRITICAL)
    content = with_masks(copy.deepcopy(folder.content))
    for _ in range(count):
        mutate(data.draw, content)
    load_anything(folder, json.dumps(content).encode(), masks)


@fuzzed
@given(data=st.data(), masks=st.booleans())
def test_any_change_of_the_text(folder, caplog, data, masks):
    """Bytes cut out, doubled or put in."""
    caplog.set_level(logging.CRITICAL)
    text = json.dumps(with_masks(copy.deepcopy(folder.content))).encode()
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 60)))
    put_in = data.draw(
        st.sampled_from([b"", text[start:end] * 2, b'"', b"9" * 5000, b"[", b"1e999", b"NaN"])
        | st.binary(max_size=4)
    )
    load_anything(folder, text[:start] + put_in + text[end:], masks)
