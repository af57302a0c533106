"""Large annotation files: read once, kept, mapped; the same records as of small ones."""

import errno
import json
import logging
import multiprocessing
import os
import pickle
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog

from ms_detr.data import DetrMapper, annotation_cache, build_train_loader, coco_dataset
from ms_detr.data.array_file import DamagedError, read_arrays, write_arrays
from ms_detr.data.dataset_dicts import Records
from ms_detr.data.fingerprint import fingerprint, fingerprint_of
from ms_detr.data.ground_truth import kept_truth, objects_per_image
from ms_detr.data.packed import PackedBytes
from tests.data.test_coco_masks import with_segmentations

fork = multiprocessing.get_context("fork")


@pytest.fixture
def large(folder, monkeypatch, tmp_path):
    """A small dataset that counts as large, and its reads."""
    monkeypatch.setattr(annotation_cache, "LARGE", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    reads = tmp_path / "reads"
    original = annotation_cache.read_objects

    def read(*arguments):
        with reads.open("a") as file:  # seen from other processes, too
            file.write("x")
        return original(*arguments)

    monkeypatch.setattr(annotation_cache, "read_objects", read)
    folder.reads = lambda: reads.stat().st_size if reads.exists() else 0
    folder.kept = Path(f"{folder.json}.arrays")
    with_segmentations(folder)
    folder.content["images"][0]["height"] = 20.0
    return folder


def plain(value):
    """Something whose parts can be compared by ==."""
    if isinstance(value, np.ndarray):
        return value.dtype, value.tolist()
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    return [*map(plain, value)] if isinstance(value, list | tuple) else (type(value), value)


@pytest.mark.parametrize("masks", [False, True])
def test_the_same_as_of_a_small_file(large, monkeypatch, masks):
    """Records, fingerprint, counts, objects for evaluation; read, and found by a later start."""

    large.write()

    def load():
        records = coco_dataset(large.name, large.images, large.json, masks, evaluated=True)
        truth = {**vars(kept_truth(large.name, masks))}
        truth["sizes"] = dict(truth["sizes"])
        truth["masks"] = truth["masks"] and list(truth["masks"])
        counts = objects_per_image(large.name)
        return records, fingerprint_of(large.name), counts.tolist(), plain(truth)

    with monkeypatch.context() as context:
        context.setattr(annotation_cache, "LARGE", 1 << 30)
        small, *expected = load()
    assert type(small) is list and not large.kept.exists() and large.reads() == 1
    for _ in range(2):
        records, *others = load()
        assert isinstance(records, Records) and len(records) == 2 and large.reads() == 2
        assert plain([*records]) == plain(small) and others == expected
        assert plain(records[::-1]) == plain(small[::-1]) and plain(records[-1]) == plain(small[1])
    assert fingerprint(small) == expected[0]
    assert plain([*DatasetCatalog.get(large.name)]) == plain(small)


def test_read_once(large):
    large.write()
    paths = large.images, large.json
    expected = plain([*coco_dataset(large.name, *paths)])
    for _ in range(2):
        assert plain([*coco_dataset(large.name, *paths)]) == expected
    assert large.reads() == 1
    assert sorted(path.name for path in large.kept.iterdir()) == ["boxes", "lock"]
    coco_dataset(large.name, *paths, masks=True)
    coco_dataset(large.name, *paths, masks=True, evaluated=True)
    coco_dataset(large.name, *paths, masks=True)
    assert large.reads() == 3
    # A changed file takes the place of all that is known of the old one.
    large.content["annotations"].pop()
    large.write()
    os.utime(large.json, ns=(1, 1))
    assert sum(len(r["annotations"]) for r in coco_dataset(large.name, *paths)) == 2
    assert sorted(path.name for path in large.kept.iterdir()) == ["boxes", "lock"]


def test_a_mapper_may_change_its_record(large):
    records = large.load()
    before = plain([*records])
    for record in records:
        record["annotations"].clear()
    assert plain([*records]) == before


DAMAGES = {
    "a bit": lambda content: content.replace(b"a.png", b"c.png"),
    "half": lambda content: content[: len(content) // 2],
    "header": lambda content: content[:40] + b"\0" + content[41:],
    "length": lambda content: content[:22] + b"\x7f" + content[23:],
    "empty": lambda content: b"",
    "something": lambda content: b"something else",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_arrays_are_made_anew(large, damage):
    expected = plain([*large.load()])
    path = large.kept / "boxes"
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    again = coco_dataset(large.name, large.images, large.json)
    assert plain([*again]) == expected and large.reads() == 2
    assert path.read_bytes() == whole


def test_of_an_older_version(large, monkeypatch):
    large.load()
    (large.kept / "masks").write_bytes((large.kept / "boxes").read_bytes())
    (large.kept / "boxes.partial").write_bytes(b"of a process that was killed")
    monkeypatch.setattr(annotation_cache, "VERSION", annotation_cache.VERSION + 1)
    coco_dataset(large.name, large.images, large.json)
    assert large.reads() == 2
    assert sorted(path.name for path in large.kept.iterdir()) == ["boxes", "lock"]


def test_what_is_said_is_said_every_time(large, caplog):
    large.content["annotations"][0] |= {"bbox": [1, 1, 0, 4], "segmentation": None}
    large.content["annotations"][2]["area"] = "large"
    said = []
    for _ in range(2):
        caplog.clear()
        large.load(evaluated=True)
        os.utime(large.json, ns=(1, 1))
        said.append([r.getMessage() for r in caplog.records if r.levelno == logging.WARNING])
    assert said[0] == said[1] and len(said[0]) == 2
    assert "dropped 1 of 3" in said[0][0] and "annotation 1 with bbox [1, 1, 0, 4]" in said[0][0]
    assert "annotation 5 with area 'large'" in said[0][1]
    large.content["annotations"][1]["bbox"][3] = -1
    large.write()
    for trusted, reads in ((False, 1), (False, 0), (True, 0)):
        before = large.reads()
        if trusted:
            coco_dataset(large.name, large.images, large.json, trust_annotations=True)
        else:
            with pytest.raises(ValueError, match=r"has 2 of 3 .*trust_annotations=true"):
                coco_dataset(large.name, large.images, large.json)
        assert large.reads() == before + reads


def test_where_they_are_kept(large, tmp_path, caplog):
    large.write()
    paths = large.images, large.json
    coco_dataset(large.name, *paths, cache=False)
    assert not large.kept.exists() and large.reads() == 1
    for _ in range(2):
        coco_dataset(large.name, *paths, cache=str(tmp_path / "elsewhere"))
    (own,) = (tmp_path / "elsewhere").iterdir()
    assert own.name.startswith("annotations.json-") and (own / "boxes").exists()
    assert large.reads() == 2 and not large.kept.exists()
    large.kept.write_text("no folder")  # nor can one be made there, even by root
    for _ in range(2):
        coco_dataset(large.name, *paths)
    assert large.reads() == 3
    assert (tmp_path / "user" / "ms_detr" / own.name / "boxes").exists()
    for wrong in (3, ""):
        with pytest.raises(ValueError, match=r"annotation_cache must be the name of a folder, nul"):
            coco_dataset(large.name, *paths, cache=wrong)


def test_a_full_disk_is_no_error(large, monkeypatch, caplog):
    def write(path, *_):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(annotation_cache, "write_arrays", write)
    assert len([*large.load()]) == 2
    assert "nothing is kept for the next start: No space left on device" in caplog.text


def test_a_file_that_changes_while_it_is_read_is_not_kept(large, monkeypatch, caplog):
    original = annotation_cache.read_objects

    def read(path, *arguments):
        os.utime(path, ns=(1, 1))
        return original(path, *arguments)

    monkeypatch.setattr(annotation_cache, "read_objects", read)
    assert len(large.load()) == 2
    assert not (large.kept / "boxes").exists() and "has changed while it was read" in caplog.text


# ------------------------------------------------------------------------- several processes


def load_in_process(folder, results) -> None:
    results.put(plain([*coco_dataset(folder.name, folder.images, folder.json)]))


def test_one_process_reads_while_the_others_wait(large, monkeypatch):
    original = annotation_cache.read_objects

    def slowly(*arguments):
        time.sleep(0.3)
        return original(*arguments)

    monkeypatch.setattr(annotation_cache, "read_objects", slowly)
    large.write()
    results = fork.Queue()
    processes = [fork.Process(target=load_in_process, args=(large, results)) for _ in range(4)]
    for process in processes:
        process.start()
    found = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert large.reads() == 1
    assert all(one == found[0] for one in found) and len(found[0]) == 2


def test_a_process_that_is_killed_while_it_reads_leaves_nothing_behind(large, monkeypatch):
    expected = plain([*large.load()])
    (large.kept / "boxes").unlink()
    original = annotation_cache.write_arrays
    written = fork.Event()

    def half(path, facts, arrays):
        path.with_name(path.name + ".partial").write_bytes(b"half of it")
        written.set()
        time.sleep(60)

    with monkeypatch.context() as context:
        context.setattr(annotation_cache, "write_arrays", half)
        process = fork.Process(target=load_in_process, args=(large, fork.Queue()))
        process.start()
        assert written.wait(60)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    assert annotation_cache.write_arrays is original
    assert plain([*coco_dataset(large.name, large.images, large.json)]) == expected
    assert sorted(path.name for path in large.kept.iterdir()) == ["boxes", "lock"]


def test_processes_share_the_arrays(large):
    """They are handed on as the path of their file; a loader's workers map it or inherit it."""
    records = large.load(masks=True)
    content = pickle.dumps(records)
    assert b"a.png" not in content and plain([*pickle.loads(content)]) == plain([*records])
    batches = [
        next(iter(build_train_loader(records, DetrMapper([]), 2, workers))) for workers in (0, 2)
    ]
    for one, other in zip(*batches, strict=True):
        assert one["image_id"] == other["image_id"]
        assert (one["image"] == other["image"]).all()


# --------------------------------------------------------------------------------- the parts


def test_arrays_in_a_file(tmp_path):
    arrays = {
        "none": np.zeros((0, 4)),
        "some": np.arange(6, dtype=np.int32).reshape(2, 3)[:, ::2],
        "flags": np.array([True, False, True]),
    }
    write_arrays(tmp_path / "a", {"key": [1, "x"], "more": None}, arrays)
    found = read_arrays(tmp_path / "a", [1, "x"])
    assert found.facts == {"key": [1, "x"], "more": None}
    assert plain(dict(found.arrays)) == plain(arrays)
    with pytest.raises(ValueError):
        found["some"][0] = 1  # it is read-only
    with pytest.raises(DamagedError, match="another key"):
        read_arrays(tmp_path / "a", [2, "x"])


def test_packed_bytes(monkeypatch):
    monkeypatch.setattr("ms_detr.data.packed.CHUNK", 2)
    strings = [b"a", b"", b"bcd", b"ef", b"", b"g"]
    packed = PackedBytes.joined([PackedBytes.of(strings[:2]), PackedBytes.of(strings[2:])])
    assert [*packed] == strings and packed[1:-1] == strings[1:-1]
    order = np.array([5, 2, 2, 0, 1])
    assert [*packed.taken(order)] == [strings[place] for place in order]
    assert [*packed.taken(order[:0])] == []


def test_every_folder_is_listed_once(large, monkeypatch):
    """That files are there is checked without asking for each: millions would take minutes."""
    stats = []
    original = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: stats.append(path) or original(path))
    monkeypatch.setattr(os, "stat", None)
    monkeypatch.setattr("ms_detr.data.annotation_cache._key", lambda *_: [])
    monkeypatch.setattr("ms_detr.data.coco.is_large", lambda _: True)
    monkeypatch.setattr("ms_detr.data.annotation_cache.is_large", lambda _: False)
    monkeypatch.setattr("ms_detr.data.coco.locate", lambda *_: (str(large.images), str(large.json)))
    large.content["images"] = [
        {"id": i, "file_name": f"{'ab'[i % 2]}.png", "height": 20, "width": 30} for i in range(50)
    ]
    large.json.write_text(json.dumps(large.content))
    monkeypatch.setattr(os.path, "isdir", lambda _: True)
    coco_dataset(large.name, large.images, large.json, check_images=False)
    assert stats == [str(large.images)]
