"""Sessions through our own engine: they survive a worker that is killed, and there are no more of them than have room."""

import asyncio
import os
import signal
from pathlib import Path

import pytest
import pytest_asyncio

from cortexd import session_files
from cortexd.engines.fork_server import ForkServer
from cortexd.engines.protocol import GenerationRequest
from cortexd.engines.rwkv import RwkvEngine
from cortexd.engines.sessions import Session, Sessions
from cortexd.errors import UnknownSession
from cortexd.events import Event, SessionLost
from cortexd.wire import CacheLimits, ChatPrompt, Sampling, SessionKept, Turn
from tests.engines.asking import NEVER_ENDING, Host, collect, spec_of, started
from tests.session_states import leave

pytestmark = pytest.mark.asyncio(loop_scope="package")

HI = Turn("user", "Hello, who are you? " * 5)


@pytest_asyncio.fixture(loop_scope="package")
async def host(fork_server: ForkServer, tmp_path: Path) -> Host:
    host = Host(fork_server, tmp_path)
    host.states.change(CacheLimits(sessions=2**26))
    host.sessions.change(2**26)
    return host


def asking(*turns: Turn, session: str = "chat", tenant: str = "ada") -> GenerationRequest:
    return GenerationRequest(
        prompt=ChatPrompt(list(turns)),
        sampling=Sampling(seed=1, logit_bias=NEVER_ENDING),
        max_tokens=30,
        session=session,
        tenant=tenant,
    )


async def turn(engine: RwkvEngine, *turns: Turn, session: str = "chat", tenant: str = "ada") -> tuple[str, int]:
    """What it says, and how many tokens it did not have to read."""
    text, last = await collect(engine, asking(*turns, session=session, tenant=tenant))
    assert last.usage is not None
    return text, last.usage.cached_tokens


async def kept(host: Host) -> Session:
    """The session, as soon as there is one."""
    async with asyncio.timeout(20):
        while not (sessions := await host.sessions.all()):
            pass
    (session,) = sessions
    return session


async def test_a_session_survives_the_death_of_its_worker_and_is_its_tenants_alone(
    engine: RwkvEngine, host: Host, checkpoint: Path
):
    text, _ = await turn(engine, HI)
    session = await kept(host)
    assert (session.session, session.tenant, session.model, session.turns) == ("chat", "ada", "tiny", 1)
    os.kill(engine.pid, signal.SIGKILL)
    await engine.ended()
    async with started(spec_of(checkpoint), host) as another:
        following = (HI, Turn("assistant", text), Turn("user", "And what can you do?"))
        answered, cached = await turn(another, *following)
        assert cached == session.tokens
        assert await turn(another, *following, tenant="eve") == (answered, 0)


async def test_a_worker_that_is_stopped_keeps_the_last_turn_first(engine: RwkvEngine, host: Host):
    await turn(engine, HI)
    await engine.stop(5.0)
    assert (await kept(host)).turns == 1


async def test_a_session_that_is_removed_while_its_turn_is_written_does_not_come_back(engine: RwkvEngine, host: Host):
    generation = engine.generate(asking(HI))
    await anext(generation)
    with pytest.raises(UnknownSession):
        await host.sessions.remove("chat", "ada")
    async for _ in generation:
        pass
    await engine.stop(5.0)
    assert await host.sessions.all() == []


async def test_what_a_worker_could_not_keep_is_told(engine: RwkvEngine, host: Host):
    engine._receive(SessionKept("ada", "chat", "No space left on device"))
    (event,) = host.events
    assert isinstance(event, SessionLost)
    assert event.reason == "its last turn cannot be kept: No space left on device"


# Of the daemon's side alone


async def names(sessions: Sessions) -> list[str]:
    return [session.session for session in await sessions.all()]


async def test_the_sessions_that_were_unused_for_longest_go_first_and_that_is_told(tmp_path: Path):
    told: list[Event] = []
    sessions = Sessions(tmp_path, told.append)
    size = sum(leave(tmp_path, name, used_at) for used_at, name in enumerate("dbca"))
    sessions.change(size)
    await sessions.close()
    assert (await names(sessions), told) == (["a", "c", "b", "d"], [])
    sessions.change(size // 2)
    await sessions.close()
    assert await names(sessions) == ["a", "c"]
    assert [(event.session, event.model) for event in told if isinstance(event, SessionLost)] == [
        ("d", "goose"),
        ("b", "goose"),
    ]
    leave(tmp_path, "e", 9)
    sessions.fit()
    sessions.fit()
    await sessions.close()
    assert await names(sessions) == ["e", "a"]


async def test_room_is_made_without_reading_what_stays_and_what_is_damaged_goes_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    told: list[Event] = []
    sessions, read = Sessions(tmp_path, told.append), []
    size = sum(leave(tmp_path, name, used_at) for used_at, name in enumerate("abcd"))
    damaged, *_ = sorted(session_files.places(tmp_path), key=lambda place: place.used_at)
    damaged.path.write_bytes(b"x" * damaged.bytes)
    os.utime(damaged.path, (0, 0))
    monkeypatch.setattr(
        session_files, "read_head", lambda path, real=session_files.read_head: read.append(path) or real(path)
    )
    sessions.change(size)
    await sessions.close()
    assert not read
    sessions.change(size // 2)
    await sessions.close()
    assert len(read) == 2
    assert [event.session for event in told if isinstance(event, SessionLost)] == ["b"]
    monkeypatch.undo()
    assert await names(sessions) == ["d", "c"]


async def test_a_session_is_removed_with_every_model_and_nobody_elses(tmp_path: Path):
    sessions = Sessions(tmp_path, lambda event: None)
    for tenant, name, identity in (("", "a", "1"), ("", "a", "2"), ("", "b", "1"), ("ada", "a", "1")):
        leave(tmp_path, name, tenant=tenant, identity=identity)
    assert await sessions.remove("a", "") == 2
    assert sorted((it.tenant, it.session) for it in await sessions.all()) == [("", "b"), ("ada", "a")]
    with pytest.raises(UnknownSession):
        await sessions.remove("a", "")


async def test_without_a_directory_there_are_no_sessions():
    sessions = Sessions(None, lambda event: None)
    sessions.change(100)
    await sessions.close()
    assert await sessions.all() == []
    with pytest.raises(UnknownSession):
        await sessions.remove("a", "")
