"""Strategies: where a model's layers are computed and in which numbers, in ChatRWKV's notation.

    strategy = segment ( " -> " segment )*        segment = device " " dtype [ " *" layers [ "+" ] ] [ " states fp16" ]

`cuda:0 fp16 *20 -> cpu bf16` puts twenty layers on the first GPU and the rest on the CPU; `cuda fp16 *10+` keeps ten on the GPU and
streams the others through it. The head counts as a layer, the last one, but is never streamed. The last words are ours: recurrent
states are in fp32, and half as large with `states fp16`.
"""

import re
from dataclasses import dataclass

DTYPES = ("fp32", "bf16", "fp16", "int8", "int4")
# ChatRWKV names what is not quantised beside it; here low-rank matrices are in bf16. It has no name for int4.
_OFFICIAL = {f"{beside}i8": "int8" for beside in ("fp16", "bf16", "fp32")}
_SEGMENT = re.compile(r"(cpu|cuda(?::\d+)?) (\w+)(?: \*(\d+)(\+?))?(?: states (fp32|fp16))?")


@dataclass(frozen=True)
class Segment:
    """One part as it was written: `layers` is None where their number was left open."""

    device: str
    dtype: str
    layers: int | None = None
    streamed: bool = False
    states: str = "fp32"


@dataclass(frozen=True)
class Stretch:
    """Layers `first` to `end` of a model, of which those from `resident` on are streamed; the head is layer L, and stays."""

    device: str
    dtype: str
    first: int
    end: int
    resident: int
    states: str = "fp32"


def is_placed(text: str) -> bool:
    """Whether it names a GPU, or several parts: else a model is computed on the CPU as a whole."""
    return "cuda" in text or "->" in text


def parse(text: str) -> tuple[Segment, ...]:
    """Raises ValueError with one sentence."""
    segments: list[Segment] = []
    for part in text.split(" -> "):
        match = _SEGMENT.fullmatch(part)
        if match is None:
            raise ValueError(
                f"{part!r} is no part of a strategy: write a device and a number format, such as 'cuda fp16' or 'cuda:0 fp16 *20'."
            )
        device, written, layers, streamed, states = match.groups()
        dtype = _OFFICIAL.get(written, written)
        if dtype not in DTYPES:
            raise ValueError(
                f"{written!r} is no number format of a strategy: use {', '.join(DTYPES[:-1])} or {DTYPES[-1]}."
            )
        device = "cuda:0" if device == "cuda" else device
        count = None if layers is None else int(layers)
        segments.append(Segment(device, dtype, count, bool(streamed), states or "fp32"))
    if sum(segment.streamed for segment in segments) > 1:
        raise ValueError("'+' can be written only once: one part of a strategy streams its layers.")
    if any(segment.streamed and segment.device == "cpu" for segment in segments):
        raise ValueError("'+' has no meaning after 'cpu': layers are streamed from the host to a GPU.")
    if any(segment.states != "fp32" and segment.device == "cpu" for segment in segments):
        raise ValueError("'states fp16' has no meaning after 'cpu': there states are in fp32.")
    return tuple(segments)


def plan(segments: tuple[Segment, ...], layers: int) -> tuple[Stretch, ...]:
    """Who computes which layers of a model with so many, as the `rwkv` package shares them out; parts without any are left out."""
    counts = _counts(segments, layers + 1)
    stretches: list[Stretch] = []
    first = 0
    for segment, count in zip(segments, counts, strict=True):
        resident = min(count, segment.layers or 0) if segment.streamed else count
        if count:
            stretches.append(
                Stretch(segment.device, segment.dtype, first, first + count, first + resident, segment.states)
            )
        first += count
    return tuple(stretches)


def described(stretches: tuple[Stretch, ...]) -> str:
    """For people: `layers 0–19 on cuda:0 in fp16, 20–23 and the head on cpu in bf16`."""
    last = stretches[-1].end - 1
    texts: list[str] = []
    for stretch in stretches:
        end = min(stretch.end, last) - 1
        span = f"{stretch.first}–{end}" if end > stretch.first else f"{end}" if end == stretch.first else ""
        parts = [span] if span else []
        parts += ["the head"] if stretch.end > last else []
        text = f"{' and '.join(parts)} on {stretch.device} in {stretch.dtype}"
        text += f" with states in {stretch.states}" if stretch.states != "fp32" else ""
        streamed = min(stretch.end, last) - stretch.resident
        texts.append(f"{text} ({streamed} of them streamed)" if streamed > 0 else text)
    return "layers " + ", ".join(texts)


def _counts(segments: tuple[Segment, ...], total: int) -> list[int]:
    counts = [0] * len(segments)
    for i, segment in enumerate(segments):
        if segment.layers is not None:
            counts[i] = min(segment.layers, total - sum(counts))
    left = total - sum(counts)
    streamed = next((i for i, segment in enumerate(segments) if segment.streamed), None)
    if streamed is not None:
        counts[streamed] += left
        return counts
    still_open = [i for i, segment in enumerate(segments) if segment.layers is None]
    for number, i in enumerate(still_open):
        counts[i] = (total - sum(counts)) // (len(still_open) - number)
    counts[-1] += total - sum(counts)
    return counts
