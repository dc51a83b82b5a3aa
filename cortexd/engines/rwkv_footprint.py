"""How much memory a load of our own engine will need, from what the catalogue knows: without torch, without opening the file."""

import functools
import os
from pathlib import Path

from cortexd.catalogue.spec import ModelSpec

# Of a worker that holds no model, with its share of what the fork server has imported: the most, as it is the only one (measured).
PROCESS_BYTES = 120 * 2**20

_AVX512 = {"avx512f", "avx512bw", "avx512dq", "avx512vl"}  # what torch asks for
_STREAMS = 28  # vectors of the model's width that a token takes in a step at most (measured)
_ROWS = 4  # vectors of the vocabulary's width that are there at once while a token is drawn


def footprint(spec: ModelSpec, prefill_budget: int, kept: int = 0) -> int:
    """Bytes of host memory: weights as they are computed with, the states of all slots, `kept` bytes of others, the largest step
    and the process.

    Page cache is not counted beyond the weights: the kernel takes it back. 0 where nothing is known of the model.
    """
    if not spec.parameters:
        return 0
    embedding = spec.vocabulary * spec.width
    number = 2 if computes_in_bf16(spec.strategy, spec.stored) else 4
    looked_up = 2 if spec.stored in ("BF16", "F16") else number  # rows of it are never multiplied
    weights = (spec.parameters - embedding) * number + embedding * looked_up
    states = spec.max_concurrency * spec.state_bytes
    step = 4 * (_STREAMS * spec.width * (prefill_budget + spec.max_concurrency) + _ROWS * spec.vocabulary)
    logits = 4 * spec.vocabulary * spec.max_concurrency
    return weights + states + kept + step + logits + PROCESS_BYTES


def computes_in_bf16(strategy: str, stored: str) -> bool:
    """What `cortexd.rwkv.strategy` will choose, which asks torch."""
    return strategy == "cpu bf16" or (strategy == "auto" and stored == "BF16" and _has_avx512())


@functools.cache
def _has_avx512() -> bool:
    if os.environ.get("ATEN_CPU_CAPABILITY", "avx512") != "avx512":  # torch's own switch
        return False
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return False
    flags = next((line for line in lines if line.startswith("flags")), "")
    return set(flags.split()) >= _AVX512
