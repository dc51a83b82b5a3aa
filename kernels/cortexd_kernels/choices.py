"""In which tiles products are computed on a GPU: as it was measured on this one, else by a formula.

A choice never decides what is computed, only in which order sums are added: of few rows in an order that does not depend on how
many they are. What is kept is taken where it is one of the candidates that are measured: a damaged file can do no harm.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec
import torch

from cortexd_kernels.files import turn, write_whole
from cortexd_kernels.hardware import Hardware
from cortexd_kernels.release import folder

FEW = 8  # rows that are multiplied without tensor cores
_PROGRAMS = 128  # that keep a GPU busy,
_FEW_PROGRAMS = 264  # and where they wait for memory rather than compute
_FEW_TOKENS = 32  # up to which they do: with more, what small tiles read again and again costs more than they hide
_SPARSE_PROGRAMS = 1024  # where most of what they ask for is masked out
_MOST = 1024  # rows, beyond which they are only more of the same
_ENDING = ".choices.json"


class Vector(NamedTuple):
    """Tiles of weights where rows are few: `rows` × `depth`, of which a thread holds `group` numbers (16 bytes) in a row;
    of int4 it is always the 32 with one scale.
    """

    rows: int
    depth: int
    group: int
    stages: int
    warps: int


class Tile(NamedTuple):
    """Tiles where tensor cores multiply."""

    tokens: int
    rows: int
    depth: int
    stages: int
    warps: int


class Split(NamedTuple):
    """Tiles of a product over many features, which are split so that there are about so many `programs`."""

    tokens: int
    columns: int
    depth: int
    programs: int
    stages: int
    warps: int


class Product(NamedTuple):
    """`results` numbers for each row of `depth`: weights in `stored`, int4 as uint8, activations in `dtype`."""

    results: int
    depth: int
    stored: torch.dtype
    dtype: torch.dtype


Launch = TypeVar("Launch", Vector, Tile, Split)


def vector(product: Product) -> Vector:
    """8 KiB of weights a stage, and half as much of int4, for the registers. Not for how many rows: no bit depends on that."""
    rows, size = 16 if product.results > 4096 else 8, product.stored.itemsize
    return Vector(rows, 8192 // rows // size, 16 // size, 3, 4)


def tile(product: Product, count: int) -> Tile:
    """For `count` rows: as large as leaves enough programs for a whole GPU.

    Small tiles have five stages: each processor must wait for some 26 KB at a time to use all of the memory's speed (4.3 TB/s at
    0.8 µs, over 132 processors).
    """
    wide = product.dtype is torch.float32
    tokens = min(max(_power(count), 16), 64 if wide else 128)
    rows = 64 if wide else 128
    programs = _PROGRAMS if wide or tokens > _FEW_TOKENS else _FEW_PROGRAMS
    while rows > 16 and -(-product.results // rows) * -(-count // tokens) < programs:
        rows //= 2
    if wide:
        return Tile(tokens, rows, 32, 2, 4)
    if tokens + rows <= 64:
        return Tile(tokens, rows, 128, 5, 4)
    return Tile(tokens, rows, 64, 3, 8 if tokens * rows >= 64 * 64 else 4)


def split(product: Product, count: int) -> Split:
    """A row of the value matrix is read in pieces of at least 128 bytes, of integers 64 where rows are few."""
    tokens, rows, depth, stages, warps = tile(product, count)
    columns, programs = max(rows, 64), _SPARSE_PROGRAMS if count <= FEW else _PROGRAMS
    if product.stored is torch.uint8 and count <= FEW:  # two in a byte
        columns, programs = 2 * columns, programs // 2
    return Split(tokens, columns, min(depth, 64), programs, min(stages, 3), warps)


def bucket(count: int) -> int:
    """Up to how many rows the choice holds that is made for `count`."""
    return FEW if count <= FEW else min(max(_power(count), 16), _MOST)


def vectors(product: Product) -> list[Vector]:
    """What may be chosen, the formula's first: in each a thread holds 64 bytes of a stage, or 64 numbers of int4."""
    first, size = vector(product), product.stored.itemsize
    sizes = [(rows, stage) for rows in (8, 16, 32) for stage in (4096, 8192, 16384)]
    shapes = [Vector(rows, stage // rows // size, first.group, 3, stage // 2048) for rows, stage in sizes]
    return list(dict.fromkeys([first, *shapes, first._replace(stages=2), first._replace(stages=4)]))


def tiles(product: Product, count: int) -> list[Tile]:
    """What may be chosen for all of a bucket, the formula's first, then those that differ from it in one number."""
    first, most = tile(product, bucket(count)), 64 if product.dtype is torch.float32 else 256
    tokens = (16, min(first.tokens, most))  # more would be computed for nobody
    return [first, *_nearby(first, tokens=tokens, rows=(16, most), depth=(32, 128), warps=(2, 8))]


def splits(product: Product, count: int) -> list[Split]:
    first = split(product, bucket(count))
    return [first, *_nearby(first, columns=(64, 256), depth=(32, 128), programs=(32, 4096), warps=(2, 8))]


def name(kind: str, product: Product, count: int = 0) -> str:
    """Of what is chosen: "tile 4096 x 1024 float16 float16 to 128"."""
    stored, dtype = (str(it).removeprefix("torch.") for it in (product.stored, product.dtype))
    up_to = f" to {bucket(count)}" if count else ""
    return f"{kind} {product.results} x {product.depth} {stored} {dtype}{up_to}"


CANDIDATES: dict[str, Callable[[Product, int], Sequence[tuple[int, ...]]]] = {
    "vector": lambda product, _: vectors(product),
    "tile": tiles,
    "split": splits,
}


class Choices:
    """`kept` holds what is chosen, by `name`; where nothing is, the formula holds."""

    def __init__(self, kept: Mapping[str, Sequence[int]] | None = None) -> None:
        self._kept = kept or {}
        self._found: dict[tuple[str, Product, int], tuple[int, ...] | None] = {}

    def vector(self, product: Product) -> Vector:
        return self._chosen(Vector, "vector", product) or vector(product)

    def tile(self, product: Product, count: int) -> Tile:
        return self._chosen(Tile, "tile", product, count) or tile(product, count)

    def split(self, product: Product, count: int) -> Split:
        return self._chosen(Split, "split", product, count) or split(product, count)

    def _chosen(self, kind: type[Launch], called: str, product: Product, count: int = 0) -> Launch | None:
        key = (called, product, bucket(count) if count else 0)
        if key not in self._found:
            kept = tuple(self._kept.get(name(called, product, count), ()))
            self._found[key] = kept if kept in CANDIDATES[called](product, count) else None
        found = self._found[key]
        return None if found is None else kind(*found)


FORMULA = Choices()


class _Kept(msgspec.Struct, frozen=True):
    hardware: Hardware
    choices: dict[str, list[int]]


def kept_choices(cache: Path | None, hardware: Hardware) -> Choices:
    """What was measured on this hardware, with these kernels."""
    return Choices(_read(cache, hardware))


def is_kept(cache: Path | None, hardware: Hardware, called: str) -> bool:
    return called in _read(cache, hardware)


def keep_choices(cache: Path, hardware: Hardware, choices: Mapping[str, Sequence[int]]) -> None:
    """Beside those that are kept already, for all workers from now on; raises OSError."""
    own = folder(cache)
    own.mkdir(mode=0o700, parents=True, exist_ok=True)
    with turn(own / "choices.lock"):
        all_of_them = _read(cache, hardware) | {called: list(choice) for called, choice in choices.items()}
        write_whole(_path(cache, hardware), msgspec.json.encode(_Kept(hardware, all_of_them)))


def _read(cache: Path | None, hardware: Hardware) -> dict[str, list[int]]:
    if cache is not None:
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            kept = _decode(_path(cache, hardware).read_bytes())
            if kept.hardware == hardware:
                return kept.choices
    return {}


def _path(cache: Path, hardware: Hardware) -> Path:
    return folder(cache) / f"{hardware.key}{_ENDING}"


_decode = msgspec.json.Decoder(_Kept).decode


def _nearby(first: Launch, **limits: tuple[int, int]) -> Iterator[Launch]:
    """Those with one number halved or doubled, within its limits, or with a stage or two less or more."""
    for field, (least, most) in limits.items():
        own = getattr(first, field)
        yield from (first._replace(**{field: number}) for number in (own // 2, own * 2) if least <= number <= most)
    yield from (first._replace(stages=first.stages + more) for more in (-2, -1, 1, 2) if 2 <= first.stages + more <= 6)


def _power(count: int) -> int:
    """The least power of two that is not below it."""
    return 1 << (count - 1).bit_length()
