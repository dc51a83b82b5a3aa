"""How much memory a load of our own engine will need, from what the catalogue knows: without torch, without opening the file."""

import functools
import os
from pathlib import Path

from cortexd.catalogue.spec import ModelSpec
from cortexd_kernels.native.library import is_expected

# Of a worker that holds no model, with its share of what the fork server has imported: the most, as it is the only one (measured).
PROCESS_BYTES = 120 * 2**20

_AVX512 = {"avx512f", "avx512bw", "avx512dq", "avx512vl"}  # what torch asks for
# With scales, and what stays in 16 bits.
_BYTES = {"cpu fp32": 4, "cpu bf16": 2, "cpu fp16": 2, "cpu int8": 1.25, "cpu int4": 0.75}
STREAMS = 34  # vectors of the model's width that a token takes in a step at most (measured)
_ROWS = 4  # vectors of the vocabulary's width that are there at once while a token is drawn


def footprint(spec: ModelSpec, prefill_budget: int, kept: int = 0) -> int:
    """Bytes of host memory: weights as they are computed with, the states of all slots, `kept` bytes of others, the largest step
    and the process.

    Page cache is not counted beyond the weights: the kernel takes it back. 0 where nothing is known of the model.
    """
    if not spec.parameters:
        return 0
    embedding = spec.vocabulary * spec.width
    number = bytes_per_number(spec.strategy, spec.stored)
    looked_up = 2 if spec.stored in ("BF16", "F16") else max(number, 2)  # rows of it are never multiplied
    weights = int((spec.parameters - embedding) * number) + embedding * int(looked_up)
    if spec.strategy == "cpu int4":  # whose head, as large as the embedding, is in int8
        weights += int(embedding * (_BYTES["cpu int8"] - number))
    states = spec.max_concurrency * spec.state_bytes
    step = 4 * (STREAMS * spec.width * (prefill_budget + spec.max_concurrency) + _ROWS * spec.vocabulary)
    logits = 4 * spec.vocabulary * spec.max_concurrency
    return weights + states + kept + step + logits + PROCESS_BYTES


def bytes_per_number(strategy: str, stored: str) -> float:
    """Of what `cortexd.rwkv.strategy` will choose, which asks torch."""
    if strategy == "auto":
        sixteen = stored in ("BF16", "F16") if is_expected() else stored == "BF16" and _has_avx512()
        return 2 if sixteen else 4
    return _BYTES.get(strategy, 4)


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
