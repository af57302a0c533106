"""Bytes of a checkpoint that have changed since it was written."""

import pytest
import torch
from torch.serialization import set_crc32_options

from ms_detr.engine import Checkpointer, load_weights, read_checkpoint
from ms_detr.engine.archive import read_facts, write_checkpoint
from ms_detr.engine.checkpoint import newest

CONTENT = {
    "model": {"weight": torch.arange(40.0), "bias": torch.arange(5)},
    "iteration": 7,
    "classes": ["ant", "bee"],
}


def same(found):
    state = found["model"]
    return (
        {**found, "model": None} == {**CONTENT, "model": None}
        and state.keys() == CONTENT["model"].keys()
        and all(torch.equal(state[name], CONTENT["model"][name]) for name in state)
    )


def flipped(raw, position, bits):
    changed = bytearray(raw)
    changed[position] ^= bits
    return changed


@pytest.mark.parametrize("bits", [0x10, 0xFF])  # 0x10 makes a folder of a record
def test_every_byte_is_guarded_or_without_meaning(tmp_path, bits):
    """In tensors, in the pickle, in the archive's directory."""
    path = tmp_path / "model.pth"
    write_checkpoint(path, CONTENT)
    raw = path.read_bytes()
    refused = []
    for position in range(len(raw)):
        path.write_bytes(flipped(raw, position, bits))
        try:
            found = read_checkpoint(path)
        except ValueError:
            refused.append(position)
        else:
            assert same(found), position
    # The tensors of 200 bytes and the pickle of as many, at least.
    assert len(refused) > 400


def damage(path, what):
    """Flip a byte in the middle of some bytes of the file."""
    raw = path.read_bytes()
    assert raw.count(what) == 1
    path.write_bytes(flipped(raw, raw.index(what) + len(what) // 2, 0x01))


def test_damaged_weights_are_no_weights(tmp_path):
    model = torch.nn.Linear(2, 3)
    path = tmp_path / "model.pth"
    write_checkpoint(path, {"model": model.state_dict()})
    damage(path, model.weight.detach().numpy().tobytes())
    with pytest.raises(ValueError, match=r"model\.pth is damaged, .* earlier checkpoint") as error:
        load_weights(torch.nn.Linear(2, 3), str(path))
    assert "\n" not in str(error.value)


def test_resuming_passes_over_a_damaged_checkpoint(tmp_path, caplog):
    model = torch.nn.Linear(2, 3)
    optimizer = torch.optim.AdamW(model.parameters())
    saved = Checkpointer(tmp_path, model=model, optimizer=optimizer)
    saved.save(4)
    good = model.weight.detach().clone()
    with torch.no_grad():
        model.weight += 1
    saved.save(9)
    damage(tmp_path / "model_0000009.pth", model.weight.detach().numpy().tobytes())
    assert saved.resume(newest(tmp_path)) == 5
    assert torch.equal(model.weight, good)
    assert "model_0000009.pth is damaged" in caplog.text


def test_what_lies_beside_the_weights_is_guarded_without_reading_them(tmp_path):
    path = tmp_path / "model.pth"
    write_checkpoint(path, CONTENT)
    damage(path, CONTENT["model"]["weight"].numpy().tobytes())
    assert read_facts(path) == {"classes": ["ant", "bee"]}
    damage(path, b"bee")
    with pytest.raises(ValueError, match="is damaged"):
        read_checkpoint(path, mmap=True)


def test_files_without_checksums_are_read(tmp_path):
    path = tmp_path / "model.pth"
    torch.save(CONTENT, path, _use_new_zipfile_serialization=False)
    assert same(read_checkpoint(path)) and same(read_checkpoint(path, mmap=True))
    set_crc32_options(False)
    try:
        torch.save(CONTENT, path)
    finally:
        set_crc32_options(True)
    assert same(read_checkpoint(path))
