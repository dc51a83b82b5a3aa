"""Tiny random RWKV-7 checkpoints in every layout that is met in the wild, for tests.

Activations stay of order one through any number of layers and tokens, so tolerances mean the same as with real weights.
"""

import json
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

State = dict[str, Tensor]


class Ranks(NamedTuple):
    """Widths of the low-rank matrices; all different, so that a mix-up does not go unnoticed."""

    decay: int = 8
    a: int = 6
    v: int = 4
    gate: int = 10


def tiny_state_dict(
    seed: int,
    *,
    layers: int = 3,
    heads: int = 2,
    head_size: int = 64,
    vocabulary: int = 300,
    ffn_width: int | None = None,
    ranks: Ranks = Ranks(),  # noqa: B008
    layer0_v: bool = False,
    dtype: torch.dtype = torch.float32,
) -> State:
    """A random RWKV-7 in official names and shapes; `layer0_v` adds the dummy v0, v1, v2 that some files carry."""
    draw = _Draw(seed)
    width = heads * head_size
    ffn_width = 4 * width if ffn_width is None else ffn_width
    state: State = {"emb.weight": draw.normal(vocabulary, width), "head.weight": draw.linear(vocabulary, width, gain=2)}
    state |= draw.layer_norm("ln_out", width) | draw.layer_norm("blocks.0.ln0", width)
    for layer in range(layers):
        block = f"blocks.{layer}."
        state |= draw.layer_norm(block + "ln1", width) | draw.layer_norm(block + "ln2", width)
        attention = _attention(draw, heads, head_size, ranks, with_v=layer > 0 or layer0_v)
        state |= {f"{block}att.{name}": tensor for name, tensor in attention.items()}
        state[block + "ffn.x_k"] = draw.uniform(0, 1, width)
        state[block + "ffn.key.weight"] = draw.linear(ffn_width, width)
        state[block + "ffn.value.weight"] = draw.linear(width, ffn_width, gain=0.7)
    return {name: tensor.to(dtype) for name, tensor in state.items()}


def write_pth(path: Path, state: State) -> None:
    """What the official trainers write."""
    torch.save(state, path)


def write_safetensors(path: Path, state: State) -> None:
    """The official names in one safetensors file."""
    save_file(state, path, metadata={"format": "pt"})


def write_hf(directory: Path, state: State, *, shards: int = 1, fused: bool = False) -> None:
    """The directory that FLA's converter writes; `fused` has the older `attn.x_x`, `shards` > 1 an index file."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(_hf_config(state), indent=2))
    tensors = _hf_names(state, fused)
    if shards == 1:
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
        return
    names = sorted(tensors)
    weight_map: dict[str, str] = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: tensors[name] for name in names[shard::shards]}
        save_file(part, directory / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    total = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))


class _Draw:
    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int, mean: float = 0.0, std: float = 1.0) -> Tensor:
        return torch.randn(*shape, generator=self._generator) * std + mean

    def linear(self, rows: int, columns: int, gain: float = 1.0) -> Tensor:
        return self.normal(rows, columns, std=gain * columns**-0.5)

    def low_rank(self, width: int, rank: int, gain: float = 1.0) -> tuple[Tensor, Tensor]:
        """`x @ first @ second`, both stored [in, out]."""
        return self.normal(width, rank, std=width**-0.5), self.normal(rank, width, std=gain * rank**-0.5)

    def vector(self, width: int, mean: float, std: float) -> Tensor:
        return self.normal(1, 1, width, mean=mean, std=std)

    def uniform(self, low: float, high: float, width: int) -> Tensor:
        return torch.rand(1, 1, width, generator=self._generator) * (high - low) + low

    def layer_norm(self, name: str, width: int) -> State:
        return {
            f"{name}.weight": self.normal(width, mean=1.0, std=0.1),
            f"{name}.bias": self.normal(width, std=0.1),
        }


def _attention(draw: _Draw, heads: int, head_size: int, ranks: Ranks, with_v: bool) -> State:
    width = heads * head_size
    state = {f"x_{stream}": draw.uniform(0, 1, width) for stream in "rwkvag"}
    state |= {"w0": draw.uniform(-4, 2, width), "a0": draw.vector(width, 0, 1)}
    state["w1"], state["w2"] = draw.low_rank(width, ranks.decay)
    state["a1"], state["a2"] = draw.low_rank(width, ranks.a)
    state["g1"], state["g2"] = draw.low_rank(width, ranks.gate, gain=2)
    if with_v:
        state["v0"] = draw.vector(width, 0, 1)
        state["v1"], state["v2"] = draw.low_rank(width, ranks.v)
    state |= {"k_k": draw.vector(width, 0.85, 0.1), "k_a": draw.vector(width, 1, 0.1)}
    state["r_k"] = draw.normal(heads, head_size, std=0.1)
    for name in ("receptance", "key", "value", "output"):
        state[f"{name}.weight"] = draw.linear(width, width)
    return state | draw.layer_norm("ln_x", width)


_HF_OUTER = {"emb": "model.embeddings", "ln_out": "model.norm", "head": "lm_head"}
_HF_NORMS = {"ln0": "pre_norm", "ln1": "attn_norm", "ln2": "ffn_norm"}
_HF_ATTENTION = {"receptance": "r_proj", "key": "k_proj", "value": "v_proj", "output": "o_proj", "ln_x": "g_norm"}
_HF_LOW_RANK = {"0": "lora.2.bias", "1": "lora.0.weight", "2": "lora.2.weight"}


def _hf_names(state: State, fused: bool) -> State:
    tensors: State = {}
    for name, tensor in state.items():
        if not name.startswith("blocks."):
            module, _, kind = name.partition(".")
            tensors[f"{_HF_OUTER[module]}.{kind}"] = tensor
            continue
        _, layer, part, *rest = name.split(".")
        prefix = f"model.layers.{layer}."
        if part in _HF_NORMS:
            tensors[f"{prefix}{_HF_NORMS[part]}.{rest[0]}"] = tensor
        elif part == "ffn":
            tensors[f"{prefix}ffn.{'.'.join(rest)}"] = tensor.flatten() if rest == ["x_k"] else tensor
        elif rest[0] in _HF_ATTENTION:
            tensors[f"{prefix}attn.{_HF_ATTENTION[rest[0]]}.{rest[1]}"] = tensor
        elif rest[0][0] in "wavg" and rest[0][1:] in _HF_LOW_RANK:
            stored = tensor.flatten() if rest[0].endswith("0") else tensor.t().contiguous()
            tensors[f"{prefix}attn.{rest[0][0]}_lora.{_HF_LOW_RANK[rest[0][1:]]}"] = stored
        else:
            tensors[f"{prefix}attn.{rest[0]}"] = tensor.flatten() if rest[0] in ("k_k", "k_a") else tensor
    return _fuse(tensors) if fused else tensors


def _fuse(tensors: State) -> State:
    for name in [name for name in tensors if name.endswith("attn.x_r")]:
        prefix = name.removesuffix("r")
        tensors[prefix + "x"] = torch.stack([tensors.pop(prefix + stream).flatten() for stream in "rwkvag"])
    return tensors


def _hf_config(state: State) -> dict[str, object]:
    vocabulary, width = state["emb.weight"].shape
    layers = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
    last = f"blocks.{layers - 1}."
    return {
        "architectures": ["RWKV7ForCausalLM"],
        "model_type": "rwkv7",
        "hidden_size": width,
        "num_hidden_layers": layers,
        "head_dim": state[last + "att.r_k"].shape[1],
        "intermediate_size": state[last + "ffn.key.weight"].shape[0],
        "decay_low_rank_dim": state[last + "att.w1"].shape[1],
        "gate_low_rank_dim": state[last + "att.g1"].shape[1],
        "a_low_rank_dim": state[last + "att.a1"].shape[1],
        "v_low_rank_dim": state[last + "att.v1"].shape[1] if last + "att.v1" in state else 32,
        "vocab_size": vocabulary,
        "hidden_act": "sqrelu",
        "norm_eps": 1e-5,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "tie_word_embeddings": False,
        "torch_dtype": str(state["emb.weight"].dtype).removeprefix("torch."),
    }
