"""From a request to the first token of a model that is not loaded: converted, kept, and cold from the disk."""

import os
import statistics
from pathlib import Path
from time import perf_counter

from cortexd.rwkv.kept_weights import KeptWeights
from tests.bench.bench import Bench
from tests.bench.chats import asked, chat, ours
from tests.bench.daemon import RunningDaemon, daemon
from tests.bench.figures import Figures
from tests.bench.shapes import Shape

_BLOCK = 4 * 2**20
_SAMPLES = 256  # pages of a file that are looked at


async def loading(bench: Bench, shape: Shape) -> Figures:
    """Each round with a new home, so that its first load is the first ever."""
    figures = Figures()
    checkpoint = shape.checkpoint(bench.folder)
    for _ in range(bench.rounds):
        read_through([checkpoint])
        async with daemon(bench.folder) as running:
            await running.until_idle()
            figures["load: first ever (weights are converted), first token ms"].append(await _first(running, shape))
            await running.until_idle()  # the weights are kept in the background
            await running.unload(shape.name)
            figures["load: kept weights in the page cache, first token ms"].append(await _first(running, shape))
            await running.until_idle()
            await running.unload(shape.name)
            (kept,) = running.home.rglob("*.weights")
            size = KeptWeights(kept).bytes
            cold = await _cold(running, shape, [checkpoint, kept], size)
            figures.note(cold)
    return figures


async def _cold(running: RunningDaemon, shape: Shape, files: list[Path], size: int) -> dict[str, float]:
    """`size` bytes of these files are the weights; as many are read plainly, at the pace of the files as a whole."""
    stayed = forget(files)
    taken = await _first(running, shape)
    await running.until_idle()
    await running.unload(shape.name)
    stayed = max(stayed, forget(files))
    plain = 1000 * read_through(files) * size / sum(file.stat().st_size for file in files)
    return {
        "load: cold from the disk, first token ms": taken,
        "load: as many bytes read plainly from the disk, ms": plain,
        "load: cold / plain": taken / plain,
        "load: of the files stayed in memory": stayed,
    }


async def _first(running: RunningDaemon, shape: Shape) -> float:
    """Milliseconds from the request."""
    return 1000 * (await chat(ours(running.client, shape.name), [asked("hello")], 1)).to_first


def forget(files: list[Path]) -> float:
    """Have the system drop what it holds of these files; the share of them that it holds nevertheless.

    It keeps what a process has mapped, and what has not been written yet, which is written first.
    """
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return statistics.mean(held(path) for path in files)


def held(path: Path) -> float:
    """The share of a file that is in memory, by some of its pages."""
    size = path.stat().st_size
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)  # looking must not read ahead
        return statistics.mean(_is_held(file.fileno(), size * i // _SAMPLES) for i in range(_SAMPLES))


def read_through(files: list[Path]) -> float:
    """Seconds to read them from beginning to end."""
    start, block = perf_counter(), bytearray(_BLOCK)
    for path in files:
        with path.open("rb", buffering=0) as file:
            while file.readinto(block):
                pass
    return perf_counter() - start


def _is_held(descriptor: int, offset: int) -> bool:
    try:
        os.preadv(descriptor, [bytearray(1)], offset, os.RWF_NOWAIT)
    except BlockingIOError:
        return False
    return True
