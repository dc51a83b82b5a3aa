"""A checkpoint's tensors: mapped, not copied, under their official names, whatever the file calls them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType] - its paths are untyped
from torch import Tensor

from cortexd.checkpoints.header import Header, read_header
from cortexd.checkpoints.shape import ModelShape, identify
from cortexd.errors import UnsupportedCheckpoint

_PAGE = 4096  # bytes

ReportBytes = Callable[[int, int], None]


def no_report(_done: int, _total: int) -> None:
    """For whom nobody waits."""


class Checkpoint:
    """An opened checkpoint. `take`, `big` and `embedding` hand out its tensors and count their bytes as read."""

    def __init__(self, path: str, report: ReportBytes) -> None:
        self.name = Path(path).name
        header = read_header(Path(path))
        self.shape: ModelShape = identify(header)
        self._report = report
        self._tensors = _map_pth(path) if header.format == "pth" else _map_safetensors(path, header)
        self._done = 0

    def all(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor as it is stored, under its name in the file."""
        yield from self._tensors.items()

    def take(self, name: str) -> Tensor:
        """A small tensor, as fp32."""
        return self._counted(name).float().contiguous()

    def big(self, name: str, dtype: torch.dtype) -> Tensor:
        """A large matrix in `dtype`: still mapped where the file has that dtype, else converted."""
        tensor = self._counted(name)
        if tensor.dtype is dtype and tensor.is_contiguous():
            return _read_in(tensor)
        return tensor.to(dtype).contiguous()

    @property
    def stored(self) -> torch.dtype:
        """How the large matrices are stored."""
        return self._tensors[self.shape.origins["head.weight"].name].dtype

    def embedding(self, dtype: torch.dtype) -> Tensor:
        """The embedding, whose rows are only looked up: 16-bit floats become fp32 exactly, so that they stay as they are."""
        stored = self._tensors[self.shape.origins["emb.weight"].name].dtype
        wanted = dtype if dtype.is_floating_point else torch.bfloat16
        return self.big("emb.weight", stored if stored.itemsize == 2 else wanted)

    def _counted(self, name: str) -> Tensor:
        origin = self.shape.origins[name]
        tensor = self._tensors[origin.name]
        if origin.row is not None:
            tensor = tensor[origin.row]
        self._done += tensor.nbytes
        self._report(self._done, self.shape.weight_bytes)
        return tensor.t() if origin.transposed else tensor


def _map_pth(path: str) -> dict[str, Tensor]:
    try:
        loaded = cast("dict[str, Any]", torch.load(path, map_location="cpu", mmap=True, weights_only=True))
        return {name: value for name, value in loaded.items() if isinstance(value, Tensor)}  # not the trainer's notes
    except Exception as error:
        raise UnsupportedCheckpoint(
            f"{Path(path).name} cannot be read as a PyTorch checkpoint ({error}); download or convert it again."
        ) from error


def _map_safetensors(path: str, header: Header) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    place = Path(path)
    files = {place / tensor.file for tensor in header.tensors.values()} if place.is_dir() else {place}
    for file in files:
        tensors |= load_file(file)  # pyright: ignore[reportUnknownMemberType]
    return tensors


def _read_in(tensor: Tensor) -> Tensor:
    """Touch each page once, so that the first token does not wait for the disk."""
    tensor.view(torch.uint8).reshape(-1)[::_PAGE].sum()
    return tensor
