"""The bench checkpoints as GGUF files, so that llama.cpp runs the same weights: `python -m tests.bench.gguf --kind bf16`.

It needs the package `gguf` (`pip install gguf`, or `gguf-py` of a llama.cpp checkout on PYTHONPATH). Names, metadata and which
tensors stay fp32 are those of llama.cpp's `convert_hf_to_gguf.py`; in `q8_0`, the low-rank matrices stay bf16, as `llama-quantize`
would leave them.
"""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import torch
from numpy.typing import NDArray
from torch import Tensor

from cortexd.rwkv.tokenizer import WorldTokenizer
from tests.bench.shapes import SHAPES, Shape

Kind = gguf.GGMLQuantizationType
_KINDS = {
    "f32": (Kind.F32, gguf.LlamaFileType.ALL_F32),
    "f16": (Kind.F16, gguf.LlamaFileType.MOSTLY_F16),
    "bf16": (Kind.BF16, gguf.LlamaFileType.MOSTLY_BF16),
    "q8_0": (Kind.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
}
_OUTER = {"emb": "token_embd", "blocks.0.ln0": "token_embd_norm", "ln_out": "output_norm", "head": "output"}
_INNER = {"ln1": "attn_norm", "ln2": "attn_norm_2", "att.ln_x": "time_mix_ln", "ffn.x_k": "channel_mix_lerp_k"}
_LOW_RANK = re.compile(r"time_mix_[wavg][12]\.weight$")
_ALWAYS_FP32 = re.compile(r"time_mix_(w[12]|lerp_fused)\.weight$")

# What cortexd makes of a chat. llama.cpp's own template for these models trims the same and ends in the same words.
_TEMPLATE = "{% for message in messages %}{{ message['role']|capitalize }}: {{ message['content']|trim }}\n\n{% endfor %}Assistant:"


def write(shape: Shape, kind: str, folder: Path) -> Path:
    """The file of this shape under `folder`, made when it is not there. `kind` is one of f32, f16, bf16, q8_0."""
    path = folder / f"{shape.name}.{kind}.gguf"
    if path.exists():
        return path
    state: dict[str, Tensor] = torch.load(shape.checkpoint(folder), weights_only=True, mmap=True)
    part = path.with_suffix(".part")
    writer = gguf.GGUFWriter(part, "rwkv7")
    stored, file_type = _KINDS[kind]
    writer.add_file_type(file_type)
    _describe(writer, shape, state)
    _add_vocabulary(writer)
    for name, tensor in _renamed(state, shape.layers):
        tensor_kind = _kind_of(name, tensor, stored)
        data: NDArray[Any] = gguf.quants.quantize(tensor.float().contiguous().numpy(), tensor_kind)
        writer.add_tensor(name, data, raw_dtype=tensor_kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return part.rename(path)


def _describe(writer: gguf.GGUFWriter, shape: Shape, state: dict[str, Tensor]) -> None:
    writer.add_name(shape.name)
    writer.add_context_length(1 << 20)
    writer.add_embedding_length(64 * shape.heads)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(state["blocks.0.ffn.key.weight"].shape[0])
    writer.add_head_count(0)  # required, and not used
    writer.add_layer_norm_eps(1e-5)
    writer.add_wkv_head_size(64)
    writer.add_decay_lora_rank(state["blocks.1.att.w1"].shape[1])
    writer.add_iclr_lora_rank(state["blocks.1.att.a1"].shape[1])
    writer.add_value_residual_mix_lora_rank(state["blocks.1.att.v1"].shape[1])
    writer.add_gate_lora_rank(state["blocks.1.att.g1"].shape[1])


def _add_vocabulary(writer: gguf.GGUFWriter) -> None:
    """Tokens are escaped as Python's `repr` of their bytes. No end-of-turn token: its answers must not end early."""
    tokenizer = WorldTokenizer()
    texts, types = ["<s>"], [gguf.TokenType.CONTROL]
    for id in range(1, tokenizer.vocabulary):
        data = tokenizer.token_bytes(id)
        texts.append(repr(data)[2:-1] if data else f"[PAD{id}]")
        types.append(gguf.TokenType.NORMAL if data else gguf.TokenType.UNUSED)
    writer.add_tokenizer_model("rwkv")
    writer.add_token_list(texts)
    writer.add_token_types(types)
    writer.add_bos_token_id(tokenizer.end_of_text)
    writer.add_eos_token_id(tokenizer.end_of_text)
    writer.add_chat_template(_TEMPLATE)


def _renamed(state: dict[str, Tensor], layers: int) -> Iterator[tuple[str, Tensor]]:
    """Names and layouts of llama.cpp: one tensor for the six interpolations, low-rank matrices as [out, in]."""
    for layer in range(layers):
        mixes = [state[f"blocks.{layer}.att.x_{stream}"].reshape(1, 1, -1) for stream in "rwkvag"]
        yield f"blk.{layer}.time_mix_lerp_fused.weight", torch.stack(mixes)
    for name, tensor in state.items():
        if re.search(r"\.att\.x_[rwkvag]$", name):
            continue
        new = _new_name(name)
        tensor = tensor.t() if _LOW_RANK.search(new) else tensor
        tensor = tensor.flatten() if min(tensor.shape) == 1 or new.endswith("r_k.weight") else tensor
        yield new, tensor
        if new.startswith("blk.0.time_mix_a"):  # the first layer has no v0, v1, v2, and llama.cpp wants some
            yield new.replace("time_mix_a", "time_mix_v"), tensor


def _new_name(name: str) -> str:
    module, kind = re.fullmatch(r"(.*?)(\.weight|\.bias|)", name).groups()  # pyright: ignore[reportOptionalMemberAccess]
    kind = kind or ".weight"
    if module in _OUTER:
        return _OUTER[module] + kind
    _, layer, inner = module.split(".", 2)
    return (
        f"blk.{layer}.{_INNER.get(inner) or inner.replace('att.', 'time_mix_').replace('ffn.', 'channel_mix_')}{kind}"
    )


def _kind_of(name: str, tensor: Tensor, stored: gguf.GGMLQuantizationType) -> gguf.GGMLQuantizationType:
    if tensor.ndim == 1 or _ALWAYS_FP32.search(name):
        return Kind.F32
    return Kind.BF16 if stored == Kind.Q8_0 and _LOW_RANK.search(name) else stored


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.gguf", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(".local/bench"), help="where the checkpoints are kept")
    parser.add_argument("--shape", choices=[shape.name for shape in SHAPES], default=SHAPES[0].name)
    parser.add_argument("--kind", choices=list(_KINDS), default="bf16")
    arguments = parser.parse_args()
    shape = next(shape for shape in SHAPES if shape.name == arguments.shape)
    print(write(shape, arguments.kind, arguments.folder))


if __name__ == "__main__":
    main()
