"""Which model a checkpoint holds: from tensors alone, in every naming, and by name where it is not ours."""

from pathlib import Path

import pytest
import torch

from cortexd.checkpoints.header import read_header
from cortexd.checkpoints.shape import ModelShape, identify
from cortexd.errors import UnsupportedCheckpoint
from tests.checkpoint_files import Ranks, tiny_state_dict, write_hf, write_pth

SIZES = {"layers": 3, "heads": 3, "head_size": 16, "vocabulary": 11, "ffn_width": 200}


def shape_of(path: Path) -> ModelShape:
    return identify(read_header(path))


def refusal(path: Path, state: dict[str, torch.Tensor]) -> str:
    write_pth(path, state)
    with pytest.raises(UnsupportedCheckpoint) as refused:
        shape_of(path)
    return refused.value.message


@pytest.mark.parametrize("naming", ["official", "official with v0", "hf", "hf fused"])
def test_sizes_come_from_the_tensors(tmp_path: Path, naming: str):
    state = tiny_state_dict(0, **SIZES, ranks=Ranks(8, 6, 4, 10), layer0_v="v0" in naming, dtype=torch.bfloat16)
    path = tmp_path / "model.pth"
    if naming.startswith("hf"):
        path = tmp_path / "model"
        write_hf(path, state, fused="fused" in naming)
    else:
        write_pth(path, state)
    shape = shape_of(path)
    assert (shape.layers, shape.heads, shape.head_size, shape.width) == (3, 3, 16, 48)
    assert (shape.vocabulary, shape.ffn_width, shape.dtype) == (11, 200, "BF16")
    assert (shape.decay_rank, shape.a_rank, shape.v_rank, shape.gate_rank) == (8, 6, 4, 10)
    assert shape.weight_bytes == 2 * shape.parameters


def test_a_missing_tensor_is_named(tmp_path: Path):
    state = tiny_state_dict(0, **SIZES)
    del state["blocks.1.ffn.value.weight"]
    assert "blocks.1.ffn.value.weight is missing" in refusal(tmp_path / "m.pth", state)


def test_a_tensor_of_another_shape_is_named(tmp_path: Path):
    state = tiny_state_dict(0, **SIZES)
    state["blocks.2.att.key.weight"] = torch.zeros(48, 47)
    message = refusal(tmp_path / "m.pth", state)
    assert "blocks.2.att.key.weight has shape [48, 47] instead of [48, 48]" in message


def test_a_missing_layer_is_noticed(tmp_path: Path):
    state = {name: tensor for name, tensor in tiny_state_dict(0, **SIZES).items() if not name.startswith("blocks.1.")}
    assert "layers are missing" in refusal(tmp_path / "m.pth", state)


def test_extra_tensors_that_mean_nothing_are_no_obstacle(tmp_path: Path):
    state = tiny_state_dict(0, **SIZES) | {"blocks.0.att.time_state": torch.zeros(3, 16, 16)}
    write_pth(tmp_path / "m.pth", state)
    assert shape_of(tmp_path / "m.pth").layers == 3


ZERO = torch.zeros(4, 4)
V4 = {"blocks.0.att.time_decay": torch.zeros(4), "blocks.0.att.time_first": torch.zeros(4)}
V5 = V4 | {"blocks.0.att.ln_x.weight": torch.zeros(4)}
OTHERS = {
    "RWKV-4": V4,
    "RWKV-5.0": V5,
    "RWKV-5.1": V5 | {"blocks.0.att.gate.weight": ZERO},
    "RWKV-5.2": V5 | {"blocks.0.att.time_decay": ZERO, "blocks.0.att.gate.weight": ZERO},
    "RWKV-6": V5 | {"blocks.0.att.time_maa_x": ZERO},
    "RWKV-7a": tiny_state_dict(0, **SIZES) | {"blocks.0.ffn.s_emb.weight": ZERO},
    "RWKV-7b": tiny_state_dict(0, **SIZES) | {"blocks.0.qkv.q.weight": ZERO},
    "RWKV-8": tiny_state_dict(0, **SIZES) | {"blocks.0.rosa.weight": ZERO},
    "tuned state": {"blocks.0.att.time_state": torch.zeros(2, 4, 4)},
    "not an RWKV model": {"conv1.weight": ZERO},
}


@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_not_supported_is_refused_by_its_name(tmp_path: Path, kind: str):
    assert kind in refusal(tmp_path / "model.pth", OTHERS[kind])
