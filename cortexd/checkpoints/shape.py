"""Which model a checkpoint holds, and its sizes, found from its tensors alone."""

import re
from typing import Literal

import msgspec

from cortexd.checkpoints.header import Header
from cortexd.checkpoints.naming import Origin, is_hf, official_shape, origins
from cortexd.checkpoints.problem import damaged, quoted, unsupported

_FLOATS = {"F64", "F32", "F16", "BF16"}
_BLOCK = re.compile(r"blocks\.(\d+)\.")
_MOST_LAYERS = 1000
_KEPT_APART = (  # what only a later kind of RWKV has, and its name
    (re.compile(r"\.ffn\.s_emb|\.ffn\.s[012]$"), "RWKV-7a (DeepEmbed)"),
    (re.compile(r"(^|\.)qkv\."), "RWKV-7b (DEA attention)"),
    (re.compile(r"rosa", re.IGNORECASE), "RWKV-8 (ROSA)"),
)


class ModelShape(msgspec.Struct, frozen=True, kw_only=True):
    """The sizes of a model, and where its tensors are; `dtype` is that of its large matrices."""

    version: Literal["7"]
    layers: int
    width: int
    heads: int
    head_size: int
    vocabulary: int
    ffn_width: int
    decay_rank: int
    gate_rank: int
    a_rank: int
    v_rank: int
    dtype: str
    parameters: int
    weight_bytes: int
    origins: dict[str, Origin]

    @property
    def state_bytes(self) -> int:
        """Of one sequence: two shifts and the WKV matrices, in fp32."""
        return 4 * self.layers * self.width * (2 + self.head_size)


def identify(header: Header) -> ModelShape:
    """Raises UnsupportedCheckpoint with a sentence that names what it is instead, or the first tensor that is wrong."""
    places = origins(header.tensors)
    _refuse_others(header, places)
    shapes = {name: official_shape(origin, header.tensors) for name, origin in places.items()}
    layers = _count_layers(header, places)
    vocabulary, width = _two(header, shapes, "emb.weight")
    heads, head_size = _two(header, shapes, "blocks.0.att.r_k")
    ranks = {kind: _two(header, shapes, f"blocks.0.att.{kind}1")[1] for kind in "wag"}
    ranks["v"] = _two(header, shapes, f"blocks.{layers - 1}.att.v1")[1] if layers > 1 else 0
    ffn_width = _two(header, shapes, "blocks.0.ffn.key.weight")[0]
    expected = _expected(layers, width, heads, head_size, vocabulary, ffn_width, ranks)
    for name, shape in expected.items():
        if name not in shapes:
            raise damaged(header.name, f"the tensor {name} is missing")
        if shapes[name] != shape:
            raise damaged(header.name, f"the tensor {name} has shape {list(shapes[name])} instead of {list(shape)}")
        if (dtype := header.tensors[places[name].name].dtype) not in _FLOATS:
            raise unsupported(header.name, f"is quantised ({name} is {dtype}); use the original checkpoint")
    if heads * head_size != width:
        raise damaged(header.name, f"{heads} heads of {head_size} channels do not make a width of {width}")
    used = {places[name].name for name in expected}
    return ModelShape(
        version="7",
        layers=layers,
        width=width,
        heads=heads,
        head_size=head_size,
        vocabulary=vocabulary,
        ffn_width=ffn_width,
        decay_rank=ranks["w"],
        gate_rank=ranks["g"],
        a_rank=ranks["a"],
        v_rank=ranks["v"],
        dtype=header.tensors[places["blocks.0.ffn.key.weight"].name].dtype,
        parameters=sum(header.tensors[name].elements for name in used),
        weight_bytes=sum(header.tensors[name].bytes for name in used),
        origins={name: places[name] for name in expected},
    )


def _refuse_others(header: Header, names: dict[str, Origin]) -> None:
    for pattern, kind in _KEPT_APART:
        if any(pattern.search(name) for name in names):
            raise unsupported(header.name, f"is {kind}, which is not supported yet; RWKV-7 is")
    if any(name.endswith(".att.r_k") for name in names):
        return
    older = _older(header, names)
    if older is not None:
        raise unsupported(header.name, f"is RWKV-{older}, which is not supported yet; RWKV-7 is")
    if any("time_state" in name for name in names):
        raise unsupported(header.name, "is a tuned state, not a model; use the model it was tuned for")
    kind = "a model in Hugging Face's naming, but not RWKV-7" if is_hf(header.tensors) else "not an RWKV model"
    raise unsupported(header.name, f"is {kind}; cortexd runs RWKV-7 checkpoints")


def _older(header: Header, names: dict[str, Origin]) -> str | None:
    """RWKV-4 to 6, told apart as the official implementation does."""
    if any(".att.time_maa_" in name or ".att.time_mix_w1" in name for name in names):
        return "6"
    if not any(name.endswith(".att.time_decay") for name in names):
        return None
    if not any(".att.ln_x." in name for name in names):
        return "4"
    decay = next(names[name] for name in names if name.endswith(".att.time_decay"))
    if len(header.tensors[decay.name].shape) > 1:
        return "5.2"
    return "5.1" if any(".att.gate." in name for name in names) else "5.0"


def _count_layers(header: Header, names: dict[str, Origin]) -> int:
    numbers = {int(match[1]) for name in names if (match := _BLOCK.match(name)) and len(match[1]) <= 6}
    layers = max(numbers, default=-1) + 1
    if not 0 < layers <= _MOST_LAYERS or numbers != set(range(layers)):
        raise damaged(header.name, "some of its layers are missing")
    return layers


def _two(header: Header, shapes: dict[str, tuple[int, ...]], name: str) -> tuple[int, int]:
    if name not in shapes:
        raise damaged(header.name, f"the tensor {quoted(name)} is missing")
    if len(shape := shapes[name]) != 2 or 0 in shape:
        raise damaged(header.name, f"the tensor {name} has shape {list(shape)}, which is not that of a matrix")
    return shape[0], shape[1]


def _expected(
    layers: int, width: int, heads: int, head_size: int, vocabulary: int, ffn_width: int, ranks: dict[str, int]
) -> dict[str, tuple[int, ...]]:
    vector = (width,)
    expected: dict[str, tuple[int, ...]] = {"emb.weight": (vocabulary, width), "head.weight": (vocabulary, width)}
    norms = ["ln_out", "blocks.0.ln0"]
    for layer in range(layers):
        block = f"blocks.{layer}."
        norms += [f"{block}ln1", f"{block}ln2", f"{block}att.ln_x"]
        expected |= {f"{block}att.x_{stream}": vector for stream in "rwkvag"}
        expected |= {f"{block}att.{name}": vector for name in ("w0", "a0", "k_k", "k_a")}
        expected[f"{block}att.r_k"] = (heads, head_size)
        for kind in "wavg" if layer else "wag":
            expected[f"{block}att.{kind}1"] = (width, ranks[kind])
            expected[f"{block}att.{kind}2"] = (ranks[kind], width)
        if layer:
            expected[f"{block}att.v0"] = vector
        expected |= {f"{block}att.{name}.weight": (width, width) for name in ("receptance", "key", "value", "output")}
        expected[f"{block}ffn.x_k"] = vector
        expected[f"{block}ffn.key.weight"] = (ffn_width, width)
        expected[f"{block}ffn.value.weight"] = (width, ffn_width)
    expected |= {f"{norm}.{part}": vector for norm in norms for part in ("weight", "bias")}
    return expected
