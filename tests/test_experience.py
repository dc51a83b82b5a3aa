"""What a daemon learns outlives it."""

from pathlib import Path
from time import time

import pytest

from cortexd.catalogue.spec import ModelSpec
from cortexd.errors import StoreFailed
from cortexd.events import Decided, RequestEnded
from cortexd.experience import Experience
from cortexd.lifecycle.history import History
from cortexd.store.snapshot import Origin
from cortexd.store.store import Store

GOOSE = ModelSpec(name="goose", source="file", path="/goose", weights="1")


def no_bug(error: BaseException) -> None:
    raise error


async def opened(path: Path | None) -> tuple[Experience, History]:
    experience = Experience(path, no_bug)
    history = History(lambda _: {"cpu": 1000}, experience.record)
    await experience.start(history)
    return experience, history


async def test_measurements_uses_residents_and_the_journal_are_there_after_a_restart(tmp_path: Path):
    experience, history = await opened(tmp_path / "cortexd.db")
    history.note(GOOSE, "load_seconds", "", 7.0)
    for _ in range(3):
        history.note_use("goose")
    experience.predictor.note("goose", time())
    experience.note(Decided(at=time(), kind="load", model="goose", incarnation=1, reason="loaded for a test"))
    experience.note_residents(["goose"])
    await experience.close(history)

    experience, history = await opened(tmp_path / "cortexd.db")
    assert history.load_seconds(GOOSE) == 7.0
    assert history.rate("goose") > 0
    assert experience.residents == ("goose",)
    assert [row.reason for row in await experience.query(model="goose")] == ["loaded for a test"]
    assert experience.health() == "ok"
    await experience.close(history)


async def test_requests_that_were_served_are_kept_as_they_were_asked(tmp_path: Path):
    experience, history = await opened(tmp_path / "cortexd.db")
    ended = RequestEnded(
        at=1000.0, request="r", model="goose", route="/v1/completions", status=200, finish="stop", queue_ms=500.0,
        first_token_ms=600.0, total_ms=2000.0, prompt_tokens=1, completion_tokens=1,
    )  # fmt: skip
    experience.note(ended)
    assert experience._store is not None
    (row,) = await experience._store.usage.read()
    assert (row.at, row.model, row.waited, row.service) == (998.0, "goose", 0.5, 1.5)
    await experience.close(history)


async def test_without_a_database_nothing_is_kept_and_nothing_fails():
    experience, history = await opened(None)
    history.note(GOOSE, "load_seconds", "", 7.0)
    experience.note(Decided(at=time(), kind="load", model="goose", incarnation=1, reason="loaded for a test"))
    experience.note_residents(["goose"])
    await experience.check()
    assert await experience.query() == []
    assert experience.health() == "ok"
    await experience.close(history)


async def test_a_second_daemon_on_the_same_database_is_refused(tmp_path: Path):
    experience, history = await opened(tmp_path / "cortexd.db")
    with pytest.raises(StoreFailed):
        Experience(tmp_path / "cortexd.db", no_bug)
    await experience.close(history)


async def test_a_database_that_cannot_be_opened_is_told_and_its_configuration_is_still_known(tmp_path: Path):
    store = Store(tmp_path / "cortexd.db", no_bug)
    await store.start()
    origin = Origin(author="ada", reason="because", source="api")
    await store.snapshots.put({"port": 1}, origin, expected=0)
    await store.close()
    (tmp_path / "cortexd.db").unlink()
    (tmp_path / "cortexd.db").mkdir()  # what no database can be made in the place of, even by root
    experience, history = await opened(tmp_path / "cortexd.db")
    assert experience.failure is not None
    assert experience.health() == experience.failure.message
    assert experience.copied_head is not None
    assert experience.copied_head.current.document == {"port": 1}
    experience.note_residents(["goose"])
    await experience.close(history)


async def test_a_store_that_fails_is_told_by_health_until_it_works_again(tmp_path: Path):
    experience, history = await opened(tmp_path / "cortexd.db")
    path = tmp_path / "cortexd.db"
    path.rename(tmp_path / "away.db")
    await experience.check()
    assert "moved" in experience.health()
    (tmp_path / "away.db").rename(path)
    await experience.check()
    assert experience.health() == "ok"
    await experience.close(history)
