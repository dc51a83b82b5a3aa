"""The header of a Hugging Face directory: `config.json` beside one safetensors file, or several and their index."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from cortexd.checkpoints.problem import AGAIN, damaged, printable, quoted, unsupported
from cortexd.checkpoints.safetensors import MAX_HEADER, read_safetensors
from cortexd.checkpoints.tensor import MAX_TENSORS, TensorHeader

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"

_MAX_CONFIG = 2**20  # bytes
_MAX_SHARDS = 1000


T = TypeVar("T")


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


_decode_config = msgspec.json.Decoder(dict[str, object]).decode
_decode_index = msgspec.json.Decoder(_Index).decode


def is_checkpoint_directory(path: Path) -> bool:
    """Whether the directory looks like a model, sound or not."""
    return (path / CONFIG).is_file() and ((path / WEIGHTS).exists() or (path / INDEX).exists())


def read_directory(path: Path) -> tuple[dict[str, TensorHeader], dict[str, str]]:
    """Tensors and metadata of a Hugging Face directory; the scalars of `config.json` become "config.KEY"."""
    name = printable(path.name)
    if not (path / CONFIG).is_file():
        raise unsupported(name, f"is a directory without a {CONFIG}; give a .pth or .safetensors file")
    metadata = {
        f"config.{key}": str(value)
        for key, value in _read_json(path / CONFIG, _MAX_CONFIG, _decode_config, name).items()
        if isinstance(value, (str, int, float, bool))
    }
    if (path / WEIGHTS).exists():
        tensors, own = _read_shard(path, WEIGHTS)
        return tensors, own | metadata
    if (path / INDEX).exists():
        return _read_shards(path, name), metadata
    raise unsupported(name, f"has neither {WEIGHTS} nor {INDEX}; save the model with safe_serialization=True")


def _read_shards(path: Path, name: str) -> dict[str, TensorHeader]:
    weight_map = _read_json(path / INDEX, MAX_HEADER, _decode_index, name).weight_map
    shards = sorted(set(weight_map.values()))
    if len(weight_map) > MAX_TENSORS or len(shards) > _MAX_SHARDS:
        raise unsupported(name, "has more tensors or files than any RWKV model")
    tensors: dict[str, TensorHeader] = {}
    for shard in shards:
        # The index may come from anywhere: a file that it names lies in this directory or is not read.
        if Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise unsupported(name, f"has an index that names {quoted(shard)}, which is not a file of the directory")
        if not (path / shard).is_file():
            raise damaged(name, f"{printable(shard)} is missing")
        found, _ = _read_shard(path, shard)
        for tensor in found:
            if weight_map.get(tensor) != shard:
                raise damaged(name, f"{printable(shard)} holds {quoted(tensor)}, but {INDEX} does not say so")
        tensors |= found
    if missing := weight_map.keys() - tensors.keys():
        raise damaged(name, f"{quoted(min(missing))} is in {INDEX}, but in no file")
    return tensors


def _read_shard(path: Path, shard: str) -> tuple[dict[str, TensorHeader], dict[str, str]]:
    if not (path / shard).is_file():
        raise unsupported(printable(shard), f"in {printable(path.name)} is not a file; {AGAIN}")
    with (path / shard).open("rb") as file:
        return read_safetensors(file, printable(shard))


def _read_json(path: Path, limit: int, decode: Callable[[bytes], T], name: str) -> T:
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise unsupported(name, f"has a {path.name} of more than {limit} bytes")
    try:
        return decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise damaged(name, f"its {path.name} is not what it should be") from None
