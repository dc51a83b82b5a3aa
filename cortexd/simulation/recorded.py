"""What a daemon was really asked for, as a trace: out of its database, which it may be using meanwhile."""

import contextlib
import sqlite3
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import msgspec

from cortexd.catalogue.spec import ModelSpec
from cortexd.errors import StoreFailed
from cortexd.lifecycle.history import History
from cortexd.moments import Moments
from cortexd.simulation.traces import Trace, TraceModel, TraceRequest
from cortexd.sizes import size
from cortexd.store.failures import store_errors
from cortexd.store.file import BUSY_TIMEOUT, READING
from cortexd.store.versions import known_versions, version_in

_Key = tuple[str, str, str, str]  # weights, strategy, device, what


class Recording(msgspec.Struct, frozen=True):
    """What the database holds of it: requests in order of time, and what was measured of models."""

    requests: tuple[TraceRequest, ...]
    measured: Mapping[_Key, Moments]


def read_recording(path: Path, since: float = 0.0) -> Recording:
    """Requests asked from `since` on, in seconds since the epoch. Nothing is written, migrated or waited for, but a commit.

    Raises StoreFailed, also for a database of another version than this cortexd's.
    """
    if not path.exists():
        raise StoreFailed(f"There is no database {path}.")
    uri = f"{path.absolute().as_uri()}?mode=ro"
    with (
        store_errors(path),
        contextlib.closing(sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT, isolation_level=None)) as connection,
    ):
        for pragma in READING:
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("BEGIN")  # one consistent view
        _check_version(path, connection)
        measured = connection.execute("SELECT weights, strategy, device, what, count, mean, squares FROM measurement")
        known = {(w, s, d, what): Moments(*moments) for w, s, d, what, *moments in measured}
        asked = connection.execute("SELECT at, model, service FROM usage WHERE at >= ? ORDER BY at, id", (since,))
        return Recording(tuple(TraceRequest(*row) for row in asked), known)


def trace_of(recording: Recording, specs: Mapping[str, ModelSpec]) -> tuple[Trace, list[str]]:
    """The trace, and in sentences what was assumed: a model that was never measured is as large as its file and loads
    as fast as a daemon without experience expects; one that `specs` no longer has is left out."""
    history = History(lambda _: {})
    for (weights, strategy, device, what), seen in recording.measured.items():
        history.recall(weights, strategy, what, device, seen)
    models: list[TraceModel] = []
    assumed: list[str] = []
    for name, count in sorted(Counter(request.model for request in recording.requests).items()):
        spec = specs.get(name)
        if spec is None or not spec.size:
            assumed.append(f"{name} is no longer there to be described: its requests, {count}, are left out.")
            continue
        seconds = history.load_seconds(spec)
        resident = recording.measured.get((spec.weights or name, spec.strategy, "cpu", "peak_bytes"))
        if resident is None:
            assumed.append(f"{name} was never measured: {size(spec.size)} and {seconds:.1f} s a load are assumed.")
        models.append(TraceModel(name, round(resident.mean) if resident else spec.size, seconds))
    described = {model.name for model in models}
    return Trace(tuple(models), tuple(r for r in recording.requests if r.model in described)), assumed


def _check_version(path: Path, connection: sqlite3.Connection) -> None:
    known, version = known_versions()[-1], version_in(connection)
    if version != known:
        raise StoreFailed(
            f"The database {path} is of version {version or 'none'}, and this cortexd reads only {known}."
        )
