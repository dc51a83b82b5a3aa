"""State-tuned initial states, read without torch: their numbers, and what is wrong with a file that is none."""

import contextlib
import hashlib
import io
import json
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from cortexd.checkpoints.tuned_state import StateShape, TunedState
from cortexd.errors import UnsupportedCheckpoint

WRITERS: dict[str, Callable[[dict[str, Tensor], Path], None]] = {"pth": torch.save, "safetensors": save_file}
DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}


def tuned(layers: int = 3, heads: int = 2, size: int = 8, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    return {f"blocks.{i}.att.time_state": torch.randn(heads, size, size).to(dtype) for i in range(layers)}


def written(tensors: dict[str, Tensor], path: Path) -> Path:
    WRITERS[path.suffix[1:]](tensors, path)
    return path


def canonical(path: Path) -> tuple[bytes, str]:
    out = io.BytesIO()
    with path.open("rb") as file:
        digest = TunedState(file, path.name).write(out)
    return out.getvalue(), digest


def refusal(path: Path) -> str:
    with pytest.raises(UnsupportedCheckpoint) as refused:
        canonical(path)
    message = refused.value.message
    assert message.startswith(path.name)
    assert message.endswith(".")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", WRITERS)
def test_numbers_are_kept_exactly_whatever_they_are_stored_as(tmp_path: Path, kind: str, dtype: str):
    tensors = tuned(dtype=DTYPES[dtype])
    path = written(tensors, tmp_path / f"poet.{kind}")
    with path.open("rb") as file:
        state = TunedState(file, "poet")
        assert (state.shape, state.dtype) == (StateShape(3, 2, 8), dtype)
        layers = [torch.from_numpy(layer) for layer in state.layers()]
    for layer, tensor in zip(layers, tensors.values(), strict=True):
        assert torch.equal(layer, tensor.float())


@pytest.mark.parametrize("kind", WRITERS)
def test_the_canonical_form_is_a_safetensors_file_in_fp32_under_the_same_names(tmp_path: Path, kind: str):
    tensors = tuned(layers=12, dtype=torch.bfloat16)
    content, digest = canonical(written(tensors, tmp_path / f"poet.{kind}"))
    assert digest == hashlib.sha256(content).hexdigest()
    file = tmp_path / "canonical.safetensors"
    file.write_bytes(content)
    loaded = load_file(file)
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], tensors[name].float()) for name in tensors)
    assert canonical(file) == (content, digest)


def test_equal_numbers_have_one_canonical_form_however_they_are_stored(tmp_path: Path):
    tensors = tuned(dtype=torch.bfloat16)
    backwards = {name: tensors[name].float() for name in reversed(tensors)}
    more = tensors | {"blocks.0.att.time_offset": torch.zeros(4), "emb.weight": torch.ones(2, 2)}
    turned = {name: tensor.transpose(1, 2).contiguous().transpose(1, 2) for name, tensor in tensors.items()}
    stacked = torch.stack(list(tensors.values()), dim=1)
    views = {name: stacked[:, i] for i, name in enumerate(tensors)}
    files = [
        written(tensors, tmp_path / "a.pth"),
        written(tensors, tmp_path / "a.safetensors"),
        written(backwards, tmp_path / "backwards.pth"),
        written(backwards, tmp_path / "backwards.safetensors"),
        written(more, tmp_path / "more.pth"),
        written(more, tmp_path / "more.safetensors"),
        written(turned, tmp_path / "turned.pth"),
        written(views, tmp_path / "views.pth"),
    ]
    assert len({canonical(file) for file in files}) == 1


def changed(layer: int, tensor: Tensor) -> dict[str, Tensor]:
    return tuned() | {f"blocks.{layer}.att.time_state": tensor}


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"emb.weight": torch.ones(2, 2)}, "is no tuned state"),
        ({"blocks.00.att.time_state": torch.ones(2, 8, 8)}, "is no tuned state"),
        (changed(4, torch.ones(2, 8, 8)), "has no tensor blocks.3.att.time_state"),
        ({"blocks.1.att.time_state": torch.ones(2, 8, 8)}, "has no tensor blocks.0.att.time_state"),
        (changed(1, torch.ones(3, 8, 8)), "the shape of blocks.1.att.time_state is [3, 8, 8]"),
        ({"blocks.0.att.time_state": torch.ones(2, 8, 4)}, "as [2, 8, 4]; a state is [heads, size, size]"),
        ({"blocks.0.att.time_state": torch.ones(8, 8)}, "as [8, 8]; a state is [heads, size, size]"),
        ({"blocks.0.att.time_state": torch.ones(0, 8, 8)}, "as [0, 8, 8]; a state is [heads, size, size]"),
        (changed(1, torch.ones(2, 8, 8).half()), "mixes F32 and F16"),
        ({"blocks.0.att.time_state": torch.ones(2, 8, 8).long()}, "is stored as I64; save it as one of BF16, F16, F32"),
        ({"blocks.0.att.time_state": torch.ones(2, 8, 8).double()}, "is stored as F64"),
        (changed(2, torch.full((2, 8, 8), torch.nan)), "not finite in layer 2"),
        (changed(1, torch.full((2, 8, 8), -torch.inf)), "not finite in layer 1"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(tmp_path: Path, kind: str, tensors: dict[str, Tensor], words: str):
    assert words in refusal(written(tensors, tmp_path / f"poet.{kind}"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("number", [torch.nan, torch.inf])
def test_numbers_of_16_bits_have_to_be_finite_too(tmp_path: Path, dtype: torch.dtype, number: float):
    tensors = tuned(dtype=dtype)
    tensors["blocks.1.att.time_state"][1, 7, 7] = number
    assert "not finite in layer 1" in refusal(written(tensors, tmp_path / "poet.pth"))


def test_a_small_file_that_claims_to_be_large_is_refused(tmp_path: Path):
    endless = torch.zeros(1).expand(600, 1000, 1000)
    assert "no model has a state" in refusal(written({"blocks.0.att.time_state": endless}, tmp_path / "bomb.pth"))


@pytest.mark.parametrize("kind", WRITERS)
def test_a_file_cut_anywhere_is_refused(tmp_path: Path, kind: str):
    data = written(tuned(), tmp_path / f"whole.{kind}").read_bytes()
    cut = tmp_path / f"cut.{kind}"
    for part in (0, 1, 7, 8, 100, len(data) // 2, len(data) - 1):
        cut.write_bytes(data[:part])
        refusal(cut)


@pytest.mark.parametrize("kind", WRITERS)
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_flipped_byte_is_read_or_refused_but_never_worse(tmp_path: Path, kind: str, data: st.DataObject):
    whole = tmp_path / f"whole.{kind}"
    content = bytearray((whole if whole.exists() else written(tuned(1, 1, 2), whole)).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    flipped = tmp_path / f"flipped.{kind}"
    flipped.write_bytes(content)
    with contextlib.suppress(UnsupportedCheckpoint):
        canonical(flipped)


def test_an_archive_whose_directory_lies_about_where_its_numbers_are_is_refused(tmp_path: Path):
    content = bytearray(written(tuned(), tmp_path / "poet.pth").read_bytes())
    entry = content.rindex(b"/data/1", 0, content.rindex(b"PK\x05\x06"))
    offset = content.rindex(b"PK\x01\x02", 0, entry) + 42
    (at,) = struct.unpack_from("<I", content, offset)
    struct.pack_into("<I", content, offset, at + 1)
    lying = tmp_path / "lying.pth"
    lying.write_bytes(content)
    assert "not where its directory says" in refusal(lying)


def test_its_header_is_padded_so_that_the_numbers_are_aligned(tmp_path: Path):
    for layers in range(1, 9):
        content, _ = canonical(written(tuned(layers), tmp_path / "poet.pth"))
        (length,) = struct.unpack_from("<Q", content)
        assert length % 8 == 0
        assert list(json.loads(content[8 : 8 + length])) == [f"blocks.{i}.att.time_state" for i in range(layers)]


def test_a_shape_is_told_in_words():
    assert str(StateShape(24, 32, 64)) == "24 layers of 32 heads of 64 x 64"
    assert str(StateShape(1, 1, 64)) == "1 layer of 1 head of 64 x 64"
    assert StateShape(24, 32, 64).bytes == 24 * 32 * 64 * 64 * 4


def test_nothing_is_imported_that_a_daemon_without_states_does_without():
    script = "import sys, cortexd.checkpoints.tuned_state; print(sorted({'numpy', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
