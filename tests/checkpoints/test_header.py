"""Headers of sound, damaged and hostile files: a sentence for each that is not sound, and nothing worse."""

import contextlib
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cortexd.checkpoints.header import read_header
from cortexd.errors import UnsupportedCheckpoint
from tests.checkpoint_files import tiny_state_dict, write_hf, write_pth, write_safetensors

STATE = tiny_state_dict(0, layers=2, heads=1, head_size=16, vocabulary=7)
WRITERS: dict[str, Callable[[Path, dict[str, torch.Tensor]], None]] = {
    "pth": write_pth,
    "safetensors": write_safetensors,
    "hf": write_hf,
}


def refusal(path: Path) -> str:
    with pytest.raises(UnsupportedCheckpoint) as refused:
        read_header(path)
    message = refused.value.message
    assert message.endswith(".")
    assert "\n" not in message
    return message


def safetensors_bytes(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_a_header_tells_what_the_file_holds(tmp_path: Path, kind: str):
    path = tmp_path / f"tiny.{kind}"
    WRITERS[kind](path, STATE)
    header = read_header(path)
    assert header.format == kind
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in header.tensors.items()} == {
        name: (tuple(tensor.shape), "F32") for name, tensor in STATE.items()
    }
    assert sum(tensor.bytes for tensor in header.tensors.values()) == sum(tensor.nbytes for tensor in STATE.values())


@pytest.mark.parametrize("shards", [1, 3])
def test_a_hugging_face_directory_is_one_checkpoint(tmp_path: Path, shards: int):
    write_hf(tmp_path / "model", STATE, shards=shards)
    header = read_header(tmp_path / "model")
    assert sum(tensor.bytes for tensor in header.tensors.values()) == sum(tensor.nbytes for tensor in STATE.values())


@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_a_file_cut_anywhere_is_refused(tmp_path: Path, kind: str):
    whole = tmp_path / f"whole.{kind}"
    WRITERS[kind](whole, STATE)
    data = whole.read_bytes()
    cut = tmp_path / f"cut.{kind}"
    for part in (0, 1, 7, 8, 100, len(data) // 2, len(data) - 1):
        cut.write_bytes(data[:part])
        assert "cut." in refusal(cut)


@pytest.mark.parametrize("kind", ["pth", "safetensors"])
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_flipped_byte_is_read_or_refused_but_never_worse(tmp_path: Path, kind: str, data: st.DataObject):
    whole = tmp_path / f"whole.{kind}"
    if not whole.exists():
        WRITERS[kind](whole, STATE)
    content = bytearray(whole.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    flipped = tmp_path / f"flipped.{kind}"
    flipped.write_bytes(content)
    with contextlib.suppress(UnsupportedCheckpoint):
        read_header(flipped)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=300))
def test_noise_is_refused(tmp_path: Path, content: bytes):
    path = tmp_path / "noise.pth"
    path.write_bytes(content)
    refusal(path)


def test_a_pickle_that_would_run_something_is_refused_and_not_run(tmp_path: Path):
    class Evil:
        def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
            return os.system, (f"touch {tmp_path}/owned",)

    path = tmp_path / "evil.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("evil/data.pkl", pickle.dumps({"emb.weight": Evil()}, protocol=2))
    assert "system" in refusal(path)
    assert not (tmp_path / "owned").exists()


def test_a_compressed_archive_is_refused_without_being_unpacked(tmp_path: Path):
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", bytes(50 * 2**20))
    assert "compressed" in refusal(path)


@pytest.mark.parametrize(
    "content",
    [
        safetensors_bytes(b"{" * 1000),
        safetensors_bytes({"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, bytes(4)),
        safetensors_bytes({"x": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, bytes(4)),
        safetensors_bytes({"x": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]}}, bytes(4)),
        safetensors_bytes({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(8)),
        safetensors_bytes(
            b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
            bytes(4),
        ),
        struct.pack("<Q", 2**60) + b"{}",
    ],
    ids=["depth", "size", "negative", "overflow", "hole", "duplicate", "length"],
)
def test_a_hostile_safetensors_header_is_refused(tmp_path: Path, content: bytes):
    path = tmp_path / "hostile.safetensors"
    path.write_bytes(content)
    refusal(path)


def test_an_index_cannot_point_out_of_its_directory(tmp_path: Path):
    write_safetensors(tmp_path / "secret.safetensors", STATE)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    index = {"weight_map": {"model.embeddings.weight": "../secret.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    refusal(folder)


@pytest.mark.parametrize(("content", "word"), [(b"GGUF" + bytes(60), "GGUF"), (b"<html>" + bytes(60), "web page")])
def test_other_formats_are_named(tmp_path: Path, content: bytes, word: str):
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    assert word in refusal(path)


def test_what_is_not_there_is_said_so(tmp_path: Path):
    assert "does not exist" in refusal(tmp_path / "nothing.pth")
