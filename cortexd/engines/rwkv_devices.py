"""On which devices a model of our own engine is computed, and what it will hold of each: from what the catalogue knows."""

from collections.abc import Mapping
from pathlib import Path

import msgspec

from cortexd.catalogue.spec import ModelSpec
from cortexd.engines.rwkv_footprint import PROCESS_BYTES, STREAMS, bytes_per_number, footprint
from cortexd.strategies import Stretch, is_placed, parse, plan
from cortexd.wire import STRATEGIES, one_of

# Of a process that computes on a GPU, on each: the driver's context, the kernels, and what is not given back at once. Before the
# first load of a model tells better, it is foretold with care.
_CONTEXT_BYTES = 600 * 2**20
_DRAWN = (
    6  # vectors of the vocabulary's width for each sequence: logits, what drawing makes of them, penalties and biases
)
_AS_STORED = {"BF16": "bf16", "F16": "fp16", "F32": "fp32"}


def problem_of(strategy: str) -> str | None:
    """Why nothing can be computed so, in one sentence."""
    if strategy in STRATEGIES:
        return None
    try:
        segments = parse(strategy)
    except ValueError as error:
        reason = f", as {str(error).partition(': ')[0]}"
    else:
        only, *others = segments
        if others or only.device != "cpu":
            return None
        reason = ""
    return (
        f"The strategy {strategy!r} is not one this version can run{reason}: use {one_of(STRATEGIES)}, "
        "or devices as in 'cuda fp16'."
    )


def has_gpu() -> bool:
    """Whether the driver of NVIDIA or of AMD shows one."""
    return Path("/dev/kfd").exists() or any(Path("/dev").glob("nvidia[0-9]*"))


def settled(spec: ModelSpec, gpus: Mapping[str, int], prefill_budget: int) -> ModelSpec:
    """The same with a strategy that says where: what is `auto` is computed by the first of the `gpus` whose bytes hold it as a
    whole, in the numbers it is stored in, and where there is none by the CPU, which is what `auto` means from here on.

    It depends on what there is and not on what is loaded, so that a model is loaded where it was foretold.
    """
    if spec.strategy != "auto" or not spec.parameters:
        return spec
    for gpu, room in gpus.items():
        there = msgspec.structs.replace(spec, strategy=f"{gpu} {_AS_STORED.get(spec.stored, 'fp16')}")
        if _shared_out(there, prefill_budget)[gpu] <= room:
            return there
    return spec


def footprints(spec: ModelSpec, gpus: Mapping[str, int], prefill_budget: int, kept: int = 0) -> dict[str, int]:
    """Bytes by device, for a strategy that has no problem; without a GPU it is computed on the CPU, as `auto` says."""
    spec = settled(spec, gpus, prefill_budget)
    if "cuda" in spec.strategy and not gpus and not has_gpu():
        spec = msgspec.structs.replace(spec, strategy="auto")
    if not is_placed(spec.strategy):
        return {"cpu": footprint(spec, prefill_budget, kept)}
    if not spec.parameters:
        return {"cpu": 0}
    needed = _shared_out(spec, prefill_budget)
    needed["cpu"] = needed.get("cpu", 0) + PROCESS_BYTES + kept
    return needed


def _shared_out(spec: ModelSpec, prefill_budget: int) -> dict[str, int]:
    """What its layers need, by device."""
    needed: dict[str, int] = {}
    for stretch in plan(parse(spec.strategy), spec.layers):
        for device, count in _of(stretch, spec, prefill_budget).items():
            needed[device] = needed.get(device, 0) + count
    return needed


def _of(stretch: Stretch, spec: ModelSpec, prefill_budget: int) -> dict[str, int]:
    embedding = spec.vocabulary * spec.width
    layer = (spec.parameters - 2 * embedding) / spec.layers  # the head is as large as the embedding
    number = bytes_per_number(f"cpu {stretch.dtype}", spec.stored)
    # int4 leaves the head in int8.
    of_head = bytes_per_number("cpu int8", spec.stored) if stretch.dtype == "int4" else number
    sizes = [embedding * of_head if i == spec.layers else layer * number for i in range(stretch.first, stretch.end)]
    streamed = int(sum(sizes[stretch.resident - stretch.first : spec.layers - stretch.first]))
    resident = int(sum(sizes)) - streamed
    states = spec.max_concurrency * spec.state_bytes * (min(stretch.end, spec.layers) - stretch.first) // spec.layers
    states //= 2 if stretch.states == "fp16" else 1  # but for the shifts, next to nothing
    rows = prefill_budget + spec.max_concurrency
    head = _DRAWN * spec.vocabulary * spec.max_concurrency if stretch.end > spec.layers else 0
    step = 4 * (STREAMS * spec.width * rows + head)
    looked_up = int(embedding * max(number, 2)) if stretch.first == 0 else 0
    context = _CONTEXT_BYTES if stretch.device != "cpu" else 0
    # Of what is streamed, a layer that is computed with and one that is on its way are on the device.
    here = resident + states + step + looked_up + context + (int(2 * layer * number) if streamed else 0)
    return {stretch.device: here, "cpu": streamed} if streamed else {stretch.device: here}
