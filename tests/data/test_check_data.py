"""Planted faults are found, and nothing else; mended copies; values against pycocotools."""

from collections import Counter

import pytest

from ms_detr.data.check import Kind, check_dataset, locate, write_mended
from ms_detr.data.formats import Options
from ms_detr.errors import ConfigError

from .check_support import FAULTS, LIMITS, Clean, Fault


@pytest.fixture
def clean(tmp_path) -> Clean:
    return Clean(tmp_path / "dáta set")


def found(checked) -> dict[Kind, int]:
    return checked.counts()


def test_a_clean_dataset(clean):
    checked = check_dataset(clean.write())
    assert checked.groups == () and checked.findings == []
    assert checked.objects.names == ("cat", "dog")
    (file,) = [clean.root / "annotations" / "train.json"]
    alone = check_dataset(file, images=clean.root / "train")
    assert alone.groups == () and len(alone.images) == 10
    assert check_dataset(file).groups == ()  # the folder of its images is found


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_is_found_alone_and_mended(clean, tmp_path, fault: Fault):
    place = fault.plant(clean)
    checked = check_dataset(clean.write(), limits=LIMITS)
    assert found(checked) == {fault.kind: 1}
    (finding,) = checked.findings
    for key, value in place.items():
        assert getattr(finding, key) == value
    before = {path: path.read_bytes() for path in clean.root.rglob("*.json")}
    mended = write_mended(checked, tmp_path / "mended")
    assert tuple(found(mended.rest)) == fault.left
    told = bool(mended.problems)
    assert told or set(fault.left) & {fault.kind} or fault.kind in SILENT
    assert {path: path.read_bytes() for path in clean.root.rglob("*.json")} == before


# Numbered anew, or written as the image file has it: nothing is left out.
SILENT = {Kind.DUPLICATE_ID, Kind.IMAGE_SIZE, Kind.ENTRY, Kind.NO_SEGMENTATION}


def test_classes_are_not_chosen(clean):
    with pytest.raises(ConfigError, match="all classes of a dataset are checked"):
        locate(clean.write(), options=Options(classes=["dog"]))


def test_all_faults_together(clean):
    conflicting = {"size by a pixel", "untrained"}  # they speak of what others speak of
    planted = [fault for fault in FAULTS if fault.name not in conflicting]
    for fault in planted:
        fault.plant(clean)
    assert found(check_dataset(clean.write(), limits=LIMITS)) == Counter(
        fault.kind for fault in planted
    )
