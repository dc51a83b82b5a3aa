"""From the tensors of a checkpoint to those a model computes with: turned, padded and stacked once, not at each load."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from cortexd.rwkv.checkpoint import Checkpoint
from cortexd_kernels.native.layout import native_layout

FORMAT = 2  # to be raised whenever `prepare` gives other tensors: what was kept of an older one is then made again
EMBEDDING = "emb.weight"
VECTORS = 32  # numbers: two vectors of AVX-512, the step of torch's elementwise loops

_STREAMS = "rwkvag"


def prepare(checkpoint: Checkpoint, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of an RWKV-7, in order of use: matrices in `dtype` as `native_layout` has them, all others in fp32.

    Matrices `[out, in]`, vectors `[C]`; per layer `att.mix` `[6, 1, C]`, `ffn.value.columns` `[F, C]` and, of each low-rank
    product, 1 `[rank, C]` and 2 `[C, rank]`. What the file holds in this form already is still mapped.
    """
    yield EMBEDDING, checkpoint.embedding(dtype)
    yield from native_layout(_tensors(checkpoint, dtype if dtype.is_floating_point else checkpoint.stored), dtype)


def _tensors(checkpoint: Checkpoint, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    take, big = checkpoint.take, checkpoint.big
    for name in ("blocks.0.ln0.weight", "blocks.0.ln0.bias"):
        yield name, take(name)
    for layer in range(checkpoint.shape.layers):
        att, ffn = f"blocks.{layer}.att.", f"blocks.{layer}.ffn."
        for name in (f"blocks.{layer}.ln1.weight", f"blocks.{layer}.ln1.bias"):
            yield name, take(name)
        yield f"{att}mix", torch.stack([take(f"{att}x_{stream}").reshape(-1) for stream in _STREAMS]).unsqueeze(1)
        for name in (f"{att}{matrix}.weight" for matrix in ("receptance", "key", "value")):
            yield name, big(name, dtype)
        for kind in "wavg" if layer else "wag":  # layer 0 is where the value residual starts
            yield from _low_rank(checkpoint, f"{att}{kind}")
        for name in ("w0", "a0", "v0", "k_k", "k_a") if layer else ("w0", "a0", "k_k", "k_a"):
            yield f"{att}{name}", take(f"{att}{name}").reshape(-1)
        for name in (f"{att}r_k", f"{att}ln_x.weight", f"{att}ln_x.bias"):
            yield name, take(name)
        yield f"{att}output.weight", big(f"{att}output.weight", dtype)
        for name in (f"blocks.{layer}.ln2.weight", f"blocks.{layer}.ln2.bias"):
            yield name, take(name)
        yield f"{ffn}x_k", take(f"{ffn}x_k").reshape(-1)
        for name in (f"{ffn}key.weight", f"{ffn}value.weight"):
            yield name, big(name, dtype)
    for name in ("ln_out.weight", "ln_out.bias"):
        yield name, take(name)
    yield "head.weight", big("head.weight", dtype)


def _low_rank(checkpoint: Checkpoint, name: str) -> Iterator[tuple[str, Tensor]]:
    # Elementwise functions treat what is left over after whole vectors by another formula: no row may end in one.
    inner, outer = checkpoint.take(f"{name}1").t(), checkpoint.take(f"{name}2").t()
    missing = -inner.shape[0] % VECTORS
    yield f"{name}1", F.pad(inner, (0, 0, 0, missing)).contiguous()
    yield f"{name}2", F.pad(outer, (0, missing)).contiguous()
