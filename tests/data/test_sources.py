"""What the words of a command stand for: files, folders, patterns."""

import io
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from ms_detr.data.images import ImageError
from ms_detr.data.sources import STDIN, find_sources, read_stdin


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Files with names that people give them."""
    monkeypatch.chdir(tmp_path)
    for name in (
        *("b.jpg", "a.PNG", "notes.txt", "clip.Mp4", ".hidden.jpg", ".cache/c.jpg", "b.png"),
        *("sub/b.jpg", "sub/für mich/ü [1].tif", "other/B.jpg"),
    ):
        Path("in", name).parent.mkdir(parents=True, exist_ok=True)
        Path("in", name).touch()
    return tmp_path / "in"


def test_a_folder_with_its_subfolders(folder):
    found, problems = find_sources(["in"])
    assert not problems
    assert [(source.path, source.picture) for source in found] == [
        ("in/a.PNG", "a.png"),
        ("in/b.jpg", "b.png"),
        ("in/b.png", "b_2.png"),
        ("in/clip.Mp4", "clip.mp4"),
        ("in/other/B.jpg", "other/B.png"),
        ("in/sub/b.jpg", "sub/b.png"),
        ("in/sub/für mich/ü [1].tif", "sub/für mich/ü [1].png"),
    ]


def test_each_once_and_pictures_of_names_of_their_own(folder):
    words = ["in/sub/b.jpg", "in/other/B.jpg", str(folder / "sub"), "in/b.jpg", "-", "-"]
    found, problems = find_sources(words)
    assert not problems
    assert [(source.path, source.name) for source in found] == [
        ("in/sub/b.jpg", "b"),
        ("in/other/B.jpg", "B_2"),
        (str(folder / "sub/für mich/ü [1].tif"), "für mich/ü [1]"),
        ("in/b.jpg", "b_3"),
        (STDIN, "stdin"),
    ]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("in/*.jpg", [("in/b.jpg", "b")]),
        ("in/**/*.jpg", ["b", "other/B", "sub/b"]),
        ("in/*/b.*", ["sub/b"]),
        ("in/sub/für mich/ü [1].tif", ["ü [1]"]),
        ("in/*.txt", []),
        ("in/[xyz].jpg", []),
    ],
)
def test_patterns(folder, pattern, expected):
    found, problems = find_sources([pattern])
    assert [x.name for x in found] == [x[1] if isinstance(x, tuple) else x for x in expected]
    says = f"there is no image and no video in the pattern {pattern}"
    assert problems == ([] if expected else [says])


def test_what_is_wrong(folder):
    Path("empty").mkdir()
    Path("in/pipe.jpg").unlink(missing_ok=True)
    found, problems = find_sources(["empty", "gone.jpg", "in/notes.txt"])
    # Who reads these says what they are.
    assert [source.path for source in found] == ["gone.jpg", "in/notes.txt"]
    assert problems == ["there is no image and no video in the folder empty"]


def test_pictures_of_an_earlier_run_are_left_out(folder):
    found, problems = find_sources(["in", "in/sub/b.jpg"], [Path("in/sub"), Path("in/other/.")])
    assert [source.path for source in found] == [
        *("in/a.PNG", "in/b.jpg", "in/b.png", "in/clip.Mp4"),
        "in/sub/b.jpg",  # named itself
    ]
    assert not problems
    assert find_sources(["in/sub"], [folder])[1]


def test_a_folder_that_links_to_itself(folder):
    os.symlink(folder, folder / "loop")
    assert len(find_sources(["in"])[0]) == 7


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n"])
def test_no_image_on_the_standard_input(monkeypatch, content):
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(content)))
    with pytest.raises(ImageError, match="the standard input can't be read as an image: "):
        read_stdin()


def test_the_standard_input(monkeypatch):
    file = io.BytesIO()
    Image.new("RGB", (5, 7)).save(file, "JPEG")
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(file.getvalue())))
    assert read_stdin().size == (5, 7)
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(bytes(101))))
    monkeypatch.setattr("ms_detr.data.sources.MAX_STDIN", 100)
    with pytest.raises(ImageError, match="the standard input has more than"):
        read_stdin()


def test_links_to_folders(folder):
    """They are gone into, once."""
    Path("elsewhere").mkdir()
    Image.new("RGB", (3, 3)).save("elsewhere/x.png")
    for name in ("first", "second"):
        Path("links", name).parent.mkdir(exist_ok=True)
        Path("links", name).symlink_to(Path("elsewhere").absolute())
    found, problems = find_sources(["links"])
    assert [source.name for source in found] == ["first/x"] and not problems


def test_nothing_but_pictures_of_an_earlier_run(folder):
    _, problems = find_sources(["in/sub"], [Path("in")])
    assert problems == ["there is no image and no video in the folder in/sub but below in"]
