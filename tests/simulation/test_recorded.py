"""The trace of what a daemon served."""

import contextlib
import sqlite3
from pathlib import Path

import pytest

from cortexd.catalogue.spec import ModelSpec
from cortexd.errors import StoreFailed
from cortexd.simulation.recorded import read_recording, trace_of
from cortexd.simulation.traces import TraceModel, TraceRequest
from cortexd.store.measurements import Key
from cortexd.store.store import Store
from tests.store.stores import bug

_GOOSE = ModelSpec(name="goose", source="file", weights="sha256:1", size=800_000_000)
_GANDER = ModelSpec(name="gander", source="file", weights="sha256:2", size=400_000_000)
_SPECS = {spec.name: spec for spec in (_GOOSE, _GANDER)}


async def _served(path: Path, *requests: tuple[float, str]) -> Store:
    """The store of a daemon that still runs and has served these."""
    store = Store(path, bug)
    await store.start()
    await store.measurements.load()
    for at, model in requests:
        store.usage.note(at, model, waited=0.5, service=2.0)
    await store.usage.flush()
    return store


async def test_measured_models_are_described_as_they_were_measured(tmp_path: Path) -> None:
    store = await _served(tmp_path / "db", (10.0, "goose"))
    for seconds in (3.0, 5.0):
        store.measurements.record(Key("sha256:1", "auto", ""), "load_seconds", seconds)
    store.measurements.record(Key("sha256:1", "auto", "cpu"), "peak_bytes", 900e6)
    await store.close()
    trace, assumed = trace_of(read_recording(tmp_path / "db"), _SPECS)
    assert trace.models == (TraceModel("goose", 900_000_000, 4.0),)
    assert trace.requests == (TraceRequest(10.0, "goose", 2.0),)
    assert assumed == []


async def test_what_was_never_measured_is_assumed_from_the_file_and_said_so(tmp_path: Path) -> None:
    store = await _served(tmp_path / "db", (10.0, "gander"))
    await store.close()
    trace, assumed = trace_of(read_recording(tmp_path / "db"), _SPECS)
    assert trace.models == (TraceModel("gander", 400_000_000, pytest.approx(1.2)),)
    assert assumed == ["gander was never measured: 400.0 MB and 1.2 s a load are assumed."]


async def test_a_model_that_is_gone_is_left_out_with_its_requests(tmp_path: Path) -> None:
    store = await _served(tmp_path / "db", (10.0, "gosling"), (20.0, "goose"), (30.0, "gosling"))
    await store.close()
    trace, assumed = trace_of(read_recording(tmp_path / "db"), _SPECS)
    assert [(model.name) for model in trace.models] == ["goose"]
    assert [request.at for request in trace.requests] == [20.0]
    assert assumed[-1] == "gosling is no longer there to be described: its requests, 2, are left out."


async def test_requests_are_in_order_of_asking_from_a_moment_on(tmp_path: Path) -> None:
    store = await _served(tmp_path / "db", (30.0, "goose"), (10.0, "goose"), (20.0, "gander"))
    await store.close()
    assert [request.at for request in read_recording(tmp_path / "db", since=20.0).requests] == [20.0, 30.0]


async def test_a_database_in_use_is_read_and_not_a_byte_of_it_changes(tmp_path: Path) -> None:
    store = await _served(tmp_path / "db", (10.0, "goose"))
    files = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert len(read_recording(tmp_path / "db").requests) == 1
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == files
    store.usage.note(20.0, "goose", 0.0, 1.0)
    await store.close()
    assert len(read_recording(tmp_path / "db").requests) == 2


@pytest.mark.parametrize("version", ["0001", "9999"])
async def test_a_database_of_another_version_is_refused_in_one_sentence_and_left_alone(
    tmp_path: Path, version: str
) -> None:
    path = tmp_path / "db"
    await (await _served(path)).close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (version,))
        connection.commit()
    before = path.read_bytes()
    with pytest.raises(
        StoreFailed, match=rf"^The database .* is of version {version}, and this cortexd reads only \d+\.$"
    ):
        read_recording(path)
    assert path.read_bytes() == before


def test_a_file_that_is_no_database_of_ours_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with pytest.raises(StoreFailed, match="of version none"):
        read_recording(tmp_path / "empty")
    (tmp_path / "text").write_text("not a database, but long enough to be taken for one" * 20)
    with pytest.raises(StoreFailed, match="failed"):
        read_recording(tmp_path / "text")


def test_reading_makes_no_database_where_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(StoreFailed, match="There is no database"):
        read_recording(tmp_path / "db")
    assert list(tmp_path.iterdir()) == []
