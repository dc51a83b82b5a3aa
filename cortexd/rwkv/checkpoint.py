"""A checkpoint's tensors: mapped, not copied, under their official names, whatever the file calls them."""

from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from safetensors import safe_open
from torch import Tensor

from cortexd.checkpoints.header import read_header, safetensors_files
from cortexd.checkpoints.shape import ModelShape, identify
from cortexd.errors import UnsupportedCheckpoint

_PAGE = 4096  # bytes

ReportBytes = Callable[[int, int], None]


class Checkpoint:
    """An opened checkpoint. `take` and `big` hand out its tensors and count their bytes as read."""

    def __init__(self, path: str, report: ReportBytes) -> None:
        self.name = Path(path).name
        header = read_header(Path(path))
        self.shape: ModelShape = identify(header)
        self._report = report
        self._tensors = _map_pth(path) if header.format == "pth" else _map_safetensors(path)
        if self.shape.naming == "hf":
            self._tensors = dict(official(name, tensor) for name, tensor in self._tensors.items())
        self._total = sum(tensor.nbytes for tensor in self._tensors.values())
        self._done = 0

    def take(self, name: str) -> Tensor:
        """A small tensor, as fp32."""
        return self._counted(name).float().contiguous()

    def big(self, dtype: torch.dtype) -> Callable[[str], Tensor]:
        """Hands out large matrices in `dtype`: still mapped where the file has that dtype, else converted."""

        def take(name: str) -> Tensor:
            tensor = self._counted(name)
            return (
                _read_in(tensor) if tensor.dtype is dtype and tensor.is_contiguous() else tensor.to(dtype).contiguous()
            )

        return take

    def _counted(self, name: str) -> Tensor:
        tensor = self._tensors.pop(name)
        self._done += tensor.nbytes
        self._report(self._done, self._total)
        return tensor


def official(name: str, tensor: Tensor) -> tuple[str, Tensor]:
    """The official name of a tensor in HF/FLA naming, and the tensor in official orientation."""
    if name in _HF_OUTER:
        return _HF_OUTER[name], tensor
    _, _, layer, rest = name.split(".", 3)  # model.layers.<i>.<rest>
    prefix = f"blocks.{layer}."
    if rest in _HF_INNER:
        return prefix + _HF_INNER[rest], tensor
    part, _, tail = rest.partition(".")
    if part in ("pre_norm", "attn_norm", "ffn_norm"):
        return f"{prefix}{ {'pre_norm': 'ln0', 'attn_norm': 'ln1', 'ffn_norm': 'ln2'}[part] }.{tail}", tensor
    if part == "ffn":
        return f"{prefix}ffn.{tail}", tensor
    if "_lora.lora." in tail:
        kind = tail[0]
        if tail.endswith("lora.2.bias"):
            return f"{prefix}att.{kind}0", tensor
        return f"{prefix}att.{kind}{'1' if tail.endswith('lora.0.weight') else '2'}", tensor.t()
    return f"{prefix}att.{tail.replace('g_norm', 'ln_x')}", tensor


_HF_OUTER = {
    "model.embeddings.weight": "emb.weight",
    "model.norm.weight": "ln_out.weight",
    "model.norm.bias": "ln_out.bias",
    "lm_head.weight": "head.weight",
}
_HF_INNER = {
    "attn.r_proj.weight": "att.receptance.weight",
    "attn.k_proj.weight": "att.key.weight",
    "attn.v_proj.weight": "att.value.weight",
    "attn.o_proj.weight": "att.output.weight",
}


def _map_pth(path: str) -> dict[str, Tensor]:
    try:
        return cast("dict[str, Tensor]", torch.load(path, map_location="cpu", mmap=True, weights_only=True))
    except Exception as error:
        raise UnsupportedCheckpoint(
            f"{Path(path).name} cannot be read as a PyTorch checkpoint ({error}); download or convert it again."
        ) from error


def _map_safetensors(path: str) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for file in safetensors_files(Path(path)):
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - not a mapping
                tensors[name] = opened.get_tensor(name)
    return tensors


def _read_in(tensor: Tensor) -> Tensor:
    """Touch each page once, so that the first token does not wait for the disk."""
    tensor.view(torch.uint8).reshape(-1)[::_PAGE].sum()
    return tensor
