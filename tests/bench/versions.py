"""A history of 10,000 configurations: what a rollback, a look at the history and a comparison take, as a client sees them."""

import random
import statistics
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import perf_counter

import httpx
import msgspec

from cortexd.config import settings_from_document
from cortexd.store import bundle, chain
from cortexd.store.database import Database
from cortexd.store.snapshot import Snapshot, canonical
from cortexd.store.snapshots import Snapshots
from tests.bench.bench import Bench
from tests.bench.daemon import daemon
from tests.bench.figures import Figures, percentile

VERSIONS = 10_000
MODELS = 12  # that are described in each
TIMES = 200


async def versions(bench: Bench) -> Figures:
    figures = Figures()
    for _ in range(bench.rounds):
        figures.note(await _times(bench.folder))
    return figures


async def _times(place: Path) -> dict[str, float]:
    """Milliseconds through the HTTP API of a daemon whose database is on the disk of `place`."""
    with tempfile.TemporaryDirectory(dir=place, prefix="versions-") as folder:
        home = Path(folder)
        await _prepare(home / "XDG_DATA_HOME" / "cortexd" / "cortexd.db")
        dice = random.Random(1)
        async with daemon(home, home) as running:

            async def rollback() -> httpx.Response:
                path = f"/admin/snapshots/{dice.randint(1, VERSIONS)}/rollback"
                return await running.client.post(path, headers={"if-match": "*"})

            async def history() -> httpx.Response:
                before = dice.randint(100, VERSIONS)
                return await running.client.get("/admin/snapshots", params={"limit": 100, "before": before})

            async def diff() -> httpx.Response:
                a, b = dice.sample(range(1, VERSIONS + 1), 2)
                return await running.client.get(f"/admin/snapshots/{a}/diff/{b}")

            times = {"rollback": rollback, "history of 100": history, "diff": diff}
            return {key: taken for name, ask in times.items() for key, taken in (await _timed(name, ask)).items()}


async def _timed(name: str, ask: Callable[[], Awaitable[httpx.Response]]) -> dict[str, float]:
    times: list[float] = []
    for _ in range(TIMES):
        began = perf_counter()
        (await ask()).raise_for_status()
        times.append(1000 * (perf_counter() - began))
    what = f"{VERSIONS:,} versions: {name}"
    return {f"{what}, median ms": statistics.median(times), f"{what}, p99 ms": percentile(times, 99)}


async def _prepare(path: Path) -> None:
    """A database whose versions are all proven, or the first rollback would forget nine tenths of them."""
    database = Database(path)
    try:
        snapshots = Snapshots(database)
        await snapshots.start()
        packed = bundle.pack(_history())
        await snapshots.import_bundle(packed, "bench", "", expected=None)
    finally:
        await database.close()


def _history() -> list[Snapshot]:
    versions: list[Snapshot] = []
    for number in range(1, VERSIONS + 1):
        versions.append(
            chain.sealed(
                Snapshot(
                    version=number,
                    parent=number - 1 or None,
                    previous_hash=versions[-1].chain_hash if versions else "",
                    content_hash="",
                    chain_hash="",
                    schema_version=1,
                    author="bench",
                    reason=f"change {number}",
                    source="api",
                    restored_from=None,
                    created_at=float(number),
                    proven_at=float(number),
                    body=msgspec.Raw(_body(number)),
                )
            )
        )
    return versions


def _body(number: int) -> bytes:
    models = [{"name": f"model-{n}", "aliases": [f"alias-{n}-{number}"]} for n in range(MODELS)]
    return canonical(msgspec.to_builtins(settings_from_document({"lifecycle": {"max_wait": number}, "model": models})))
