"""The stream of everything that happens."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest
from starlette.requests import ClientDisconnect

from cortexd.api.admin_events import EventsEndpoint
from cortexd.api.event_log import EventLog
from cortexd.cli.client import connect
from cortexd.cli.server import bind, running
from cortexd.events import Decided, EventBus, MemoryWarning
from tests.api.serving import House, serving, turns_until
from tests.fakes import FakeDaemon

EVENTS = "/admin/events"


def decided(model: str, kind: Any = "evict") -> Decided:
    return Decided(at=1.0, kind=kind, model=model, incarnation=1, reason="because")


def warning() -> MemoryWarning:
    return MemoryWarning(at=1.0, device="cpu", used=9, ceiling=10, reason="nearly full")


class Watcher:
    """Reads event by event: each as a dictionary of its fields; of a comment only its id is kept."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._lines = response.aiter_lines()

    async def next(self) -> dict[str, str]:
        fields: dict[str, str] = {}
        async for line in self._lines:
            if not line:
                return fields
            name, _, value = line.partition(":")
            fields[name] = value.strip()
        raise EOFError


@contextlib.asynccontextmanager
async def watching(house: House, query: str = "", last: str | None = None) -> AsyncGenerator[Watcher]:
    headers = {} if last is None else {"last-event-id": last}
    async with asyncio.timeout(5), house.client.stream("GET", f"{EVENTS}?{query}", headers=headers) as response:
        yield Watcher(response)


async def test_what_happens_is_told_with_its_name_and_an_id(house: House) -> None:
    async with watching(house) as watcher:
        assert watcher.response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert set(await watcher.next()) == {"", "id"}
        house.daemon.events.publish(decided("goose"))
        event = await watcher.next()
        assert event["event"] == "Decided"
        assert '"kind":"evict","model":"goose"' in event["data"]
        assert '"event":"Decided"' in event["data"]
        assert event["id"].partition("-")[0] == house.server.event_log.run


async def test_one_may_ask_for_a_model_and_for_kinds(house: House) -> None:
    publish = house.daemon.events.publish
    async with watching(house, "model=GOOSE") as goose, watching(house, "kind=MemoryWarning,pin") as kinds:
        await goose.next(), await kinds.next()
        for event in (warning(), decided("swan"), decided("goose", "pin")):
            publish(event)
        assert '"kind":"pin"' in (await goose.next())["data"]
        assert (await kinds.next())["event"] == "MemoryWarning"
        assert '"kind":"pin"' in (await kinds.next())["data"]
    assert (await house.client.get(f"{EVENTS}?kind=evicted")).status_code == 400


async def test_a_client_that_comes_back_misses_nothing(house: House) -> None:
    publish = house.daemon.events.publish
    async with watching(house) as watcher:
        await watcher.next()
        publish(decided("one"))
        last = (await watcher.next())["id"]
    publish(decided("two"))
    publish(decided("three"))
    async with watching(house, last=last) as watcher:
        assert (await watcher.next())["id"] == last
        assert '"two"' in (await watcher.next())["data"]
        assert '"three"' in (await watcher.next())["data"]


@pytest.mark.parametrize("last", ["0badc0de-3", "", "x", "{run}-999999", "{run}-x", "{run}--1"])
async def test_an_id_of_another_run_begins_with_the_oldest_that_is_kept(house: House, last: str) -> None:
    async with watching(house, last=last.replace("{run}", house.server.event_log.run)) as watcher:
        assert (await watcher.next())["event"] == "gap"
        await watcher.next()
        house.daemon.events.publish(decided("first"))
        assert '"first"' in (await watcher.next())["data"]


async def test_an_id_that_is_not_kept_any_more_is_answered_with_a_gap(house: House) -> None:
    log = house.server.event_log
    for number in range(5000):
        house.daemon.events.publish(decided(f"m{number}"))
    async with watching(house, last=log.id_of(1)) as watcher:
        assert (await watcher.next())["event"] == "gap"
        await watcher.next()
        seen = [await watcher.next() for _ in range(4096)]
    assert '"m904"' in seen[0]["data"]
    assert '"m4999"' in seen[-1]["data"]
    assert len({event["id"] for event in seen}) == 4096


SCOPE = {"type": "http", "method": "GET", "path": EVENTS, "query_string": b"", "headers": []}


async def test_silence_is_broken_by_comments_that_say_where_to_resume() -> None:
    log = EventLog(EventBus())
    sent: list[bytes] = []
    enough = asyncio.Event()

    async def send(message: Any) -> None:
        sent.append(message.get("body", b""))
        if len(sent) == 4:
            enough.set()

    async def receive() -> dict[str, str]:
        await enough.wait()
        return {"type": "http.disconnect"}

    with pytest.raises(ClientDisconnect):
        await EventsEndpoint(FakeDaemon(), log, heartbeat_s=0.001)(SCOPE, receive, send)
    assert sent[1] == sent[2] == sent[3] == f":\nid: {log.run}-0\n\n".encode()


async def test_a_reader_that_is_too_slow_is_cut_off_and_told_so() -> None:
    bus = EventBus()
    log = EventLog(bus, keep=3)
    sent: list[bytes] = []
    held, go_on = asyncio.Event(), asyncio.Event()

    async def send(message: Any) -> None:
        sent.append(message.get("body", b""))
        if b"one" in sent[-1]:
            held.set()
            await go_on.wait()

    async def receive() -> dict[str, str]:
        return await asyncio.get_running_loop().create_future()

    reading = asyncio.create_task(EventsEndpoint(FakeDaemon(), log)(SCOPE, receive, send))
    await turns_until(lambda: len(sent) == 2)
    bus.publish(decided("one"))
    await held.wait()
    for number in range(4):
        bus.publish(decided(f"m{number}"))
    go_on.set()
    await reading
    assert sent[-1].startswith(b"event: gap\n")
    assert b"m3" not in b"".join(sent)


async def test_a_reader_that_is_slow_but_not_too_slow_gets_everything() -> None:
    log = EventLog(bus := EventBus(), keep=3)
    for number in range(7):
        bus.publish(decided(f"m{number}"))
    assert [n for n, _ in log.after(4).events] == [5, 6, 7]
    assert not log.after(4).missed
    assert log.after(3).missed
    assert log.after(7).events == []
    assert [n for n, _ in log.after(4, most=2).events] == [5, 6]


async def test_the_stream_ends_with_its_client() -> None:
    async with serving(FakeDaemon()) as house:
        async with watching(house) as watcher:
            await watcher.next()
            assert house.server.server_state.tasks
        await turns_until(lambda: not house.server.server_state.tasks)


async def test_the_stream_ends_with_the_daemon() -> None:
    daemon = FakeDaemon()
    async with serving(daemon) as house, watching(house) as watcher:
        await watcher.next()
        daemon.events.publish(decided("last"))
        house.server.event_log.close()
        assert '"last"' in (await watcher.next())["data"]
        with pytest.raises(EOFError):
            await watcher.next()


async def test_a_server_that_stops_ends_the_stream_as_it_should_end() -> None:
    """And does not wait for it until it has to cut it, which the client would see as an error."""
    daemon = FakeDaemon()
    sock = bind("127.0.0.1", 0)
    async with connect(f"127.0.0.1:{sock.getsockname()[1]}") as client, asyncio.timeout(10):
        async with running(daemon, [sock]):
            stream = client.stream("GET", EVENTS)
            watcher = Watcher(await stream.__aenter__())
            await watcher.next()
        with pytest.raises(EOFError):
            await watcher.next()
        await stream.__aexit__(None, None, None)
    await daemon.close()
