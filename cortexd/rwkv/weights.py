"""A model's weights, from wherever they come fastest: kept from an earlier load, or converted from the checkpoint."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cortexd.checkpoints.identity import identity_of
from cortexd.checkpoints.shape import ModelShape
from cortexd.rwkv.checkpoint import Checkpoint, ReportBytes
from cortexd.rwkv.kept_weights import KeptWeights
from cortexd.rwkv.prepare import prepare
from cortexd.rwkv.strategy import Strategy, candidates, parse_strategy
from cortexd.rwkv.weights_cache import WeightsCache


@dataclass(frozen=True)
class Weights:
    """What `prepare` gives. `fresh` is set where it was kept by this load, and so has never computed a token before."""

    shape: ModelShape
    strategy: Strategy
    tensors: dict[str, Tensor]
    trusted: bool = False  # a token has been computed with them before
    fresh: KeptWeights | None = None

    @property
    def bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())


def open_weights(
    path: Path, strategy: str, cache: WeightsCache | None, report: ReportBytes, *, native: bool = True
) -> Weights:
    """For `native` kernels or for PyTorch; raises LoadFailed with one sentence. `report` is told bytes done and in all."""
    identity = weights_identity(path)
    if cache is not None and (found := _find(cache, identity, strategy, native)) is not None:
        kept, chosen = found
        try:
            kept.read_in(report, torch.get_num_threads())
            return Weights(kept.shape, chosen, kept.tensors(), trusted=True)
        except OSError:  # the disk does not give it back: convert once more
            pass
    checkpoint = Checkpoint(str(path), report)
    chosen = parse_strategy(strategy, checkpoint.shape.dtype, native=native)
    with torch.inference_mode():
        if cache is not None:
            made = prepare(checkpoint, chosen.dtype)
            fresh = cache.keep(
                identity, chosen.dtype, checkpoint.shape, made, path, _to_be_kept(checkpoint.shape, chosen)
            )
            if fresh is not None:
                return Weights(checkpoint.shape, chosen, fresh.tensors(), fresh=fresh)
        return Weights(checkpoint.shape, chosen, dict(prepare(checkpoint, chosen.dtype)))


def weights_identity(path: Path) -> str:
    """Changes when the bytes of the checkpoint do, or their place on the disk."""
    try:
        return f"{path}:{identity_of(path)}"
    except OSError:  # whoever opens it will say so
        return f"{path}:"


def _to_be_kept(shape: ModelShape, chosen: Strategy) -> int:
    """About how many bytes; where the file has the right numbers, all but a turned matrix lies there as it should."""
    turned = shape.layers * shape.width * shape.ffn_width
    return (turned if chosen.is_stored_as(shape.dtype) else shape.parameters) * chosen.dtype.itemsize


def _find(cache: WeightsCache, identity: str, strategy: str, native: bool) -> tuple[KeptWeights, Strategy] | None:
    """What `auto` means depends on how the weights are stored, and a kept file knows that without the checkpoint."""
    for dtype in candidates(strategy):
        kept = cache.find(identity, dtype)
        if kept is not None and (chosen := parse_strategy(strategy, kept.shape.dtype, native=native)).dtype is dtype:
            return kept, chosen
    return None
