"""Where a checkpoint keeps each tensor of RWKV-7: under its official name, or as the FLA library names and turns it."""

from collections.abc import Mapping
from typing import NamedTuple

from cortexd.checkpoints.tensor import TensorHeader

_HF_PREFIX = "model."
_OUTER = {
    "model.embeddings.weight": "emb.weight",
    "model.norm.weight": "ln_out.weight",
    "model.norm.bias": "ln_out.bias",
    "lm_head.weight": "head.weight",
}
_NORMS = {"pre_norm": "ln0", "attn_norm": "ln1", "ffn_norm": "ln2"}
_ATTENTION = {
    "r_proj": "receptance",
    "k_proj": "key",
    "v_proj": "value",
    "o_proj": "output",
    "g_norm": "ln_x",
}
_LOW_RANK = {"lora.2.bias": "0", "lora.0.weight": "1", "lora.2.weight": "2"}
_STREAMS = "rwkvag"  # the order of the rows of a fused attn.x_x


class Origin(NamedTuple):
    """The tensor in the file, which of its rows, and whether it is turned."""

    name: str
    transposed: bool = False
    row: int | None = None


def is_hf(tensors: Mapping[str, TensorHeader]) -> bool:
    return any(name.startswith(_HF_PREFIX) for name in tensors)


def origins(tensors: Mapping[str, TensorHeader]) -> dict[str, Origin]:
    """For each official name, where it comes from. Names that mean nothing to RWKV-7 stay as they are."""
    if not is_hf(tensors):
        return {name: Origin(name) for name in tensors}
    found: dict[str, Origin] = {}
    for name in tensors:
        found.update(_from_hf(name))
    return found


def official_shape(origin: Origin, tensors: Mapping[str, TensorHeader]) -> tuple[int, ...]:
    """The shape in official orientation; vectors stored as [1, 1, C] count as [C]."""
    shape = tensors[origin.name].shape
    if origin.row is not None:
        shape = shape[1:]
    if len(shape) > 2 and set(shape[:-1]) == {1}:
        shape = shape[-1:]
    return shape[::-1] if origin.transposed else shape


def _from_hf(name: str) -> dict[str, Origin]:
    if name in _OUTER:
        return {_OUTER[name]: Origin(name)}
    parts = name.split(".")
    if len(parts) < 5 or parts[:2] != ["model", "layers"]:
        return {name: Origin(name)}
    block, part, rest = f"blocks.{parts[2]}.", parts[3], ".".join(parts[4:])
    if part in _NORMS:
        return {f"{block}{_NORMS[part]}.{rest}": Origin(name)}
    if part == "ffn":
        return {f"{block}ffn.{rest}": Origin(name)}
    if rest == "x_x":
        return {f"{block}att.x_{stream}": Origin(name, row=row) for row, stream in enumerate(_STREAMS)}
    module, _, kind = rest.partition(".")
    if module.endswith("_lora") and kind in _LOW_RANK:
        return {f"{block}att.{module[0]}{_LOW_RANK[kind]}": Origin(name, transposed=kind.endswith("weight"))}
    return {f"{block}att.{_ATTENTION.get(module, module)}{'.' if kind else ''}{kind}": Origin(name)}
