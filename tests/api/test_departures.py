"""A client that leaves, at whatever moment, frees the model and stops the computing: within 200 ms, not by garbage collection."""

import asyncio
import gc
import json
import socket
import struct
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from cortexd.events import RequestEnded
from tests.api.serving import CHAT, TEXT, House, chat_body, events_of, serving, turns_until
from tests.fake_engine import Reply
from tests.fakes import FakeDaemon

BOUND = 0.2  # seconds
STREAMED = [True, False]


@pytest.fixture(autouse=True)
def no_garbage_collection() -> Generator[None]:
    gc.disable()
    yield
    gc.enable()


class Client:
    """A bare socket, which reads no more than it is told to."""

    def __init__(self, sock: socket.socket) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket = sock

    async def send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self._socket, data)

    async def read_until(self, mark: bytes) -> bytes:
        seen = b""
        while mark not in seen:
            data = await self._loop.sock_recv(self._socket, 4096)
            assert data, f"the server has closed the connection after {seen!r}"
            seen += data
        return seen

    def close(self) -> None:
        self._socket.close()

    def reset(self) -> None:
        """As the kernel does for a process that was killed with unread data."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()


@asynccontextmanager
async def asking(house: House, url: str = CHAT, **body: Any) -> AsyncGenerator[Client]:
    """A client that has sent its request."""
    content = json.dumps(body or chat_body()).encode()
    async with connected(house) as client:
        await client.send(_head(url, len(content)) + content)
        yield client


@asynccontextmanager
async def connected(house: House) -> AsyncGenerator[Client]:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", house.port))
    client = Client(sock)
    try:
        yield client
    finally:
        client.close()


def _head(url: str, length: int) -> bytes:
    return f"POST {url} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n".encode()


async def assert_freed(house: House) -> RequestEnded:
    """To be called right after the client has left."""
    async with asyncio.timeout(BOUND):
        ended = await house.daemon.ended.get()
    assert (ended.status, ended.finish) == (499, "client_left")
    assert house.daemon.leases() == 0
    assert all(generation.cancelled for generation in house.script.generations)
    return ended


async def turns(number: int) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


async def test_while_chunks_come(house: House) -> None:
    house.script.otherwise = Reply("word ", endless=True)
    async with asking(house, **chat_body(stream=True)) as client:
        await client.read_until(b"word")
        assert house.daemon.leases() == 1
        client.close()
        ended = await assert_freed(house)
    assert ended.model == "goose"
    assert ended.first_token_ms is not None
    assert len(house.script.generations) == 1


async def test_between_two_chunks(house: House) -> None:
    gate = asyncio.Event()
    gate.set()
    house.script.otherwise = Reply("word ", endless=True, gate=gate)
    async with asking(house, **chat_body(stream=True)) as client:
        await client.read_until(b"word")
        gate.clear()
        client.close()
        await assert_freed(house)


async def test_before_the_first_chunk(house: House) -> None:
    house.script.otherwise = Reply("word", gate=asyncio.Event())
    async with asking(house, **chat_body(stream=True)) as client:
        await turns_until(lambda: house.script.generations)
        client.close()
        await assert_freed(house)


@pytest.mark.parametrize("rudely", [False, True])
async def test_while_the_server_is_held_up_inside_send(house: House, rudely: bool) -> None:
    house.script.otherwise = Reply("x" * 10_000 + " ", endless=True)
    async with asking(house, **chat_body(stream=True)) as client:
        await turns_until(lambda: any(each.flow.write_paused for each in house.server.server_state.connections))
        await turns(10)  # the next chunk is the one that is held up
        said = house.script.generations[0].said
        await turns(100)
        assert house.script.generations[0].said == said, "the server is not held up"
        assert house.daemon.leases() == 1
        client.reset() if rudely else client.close()
        await assert_freed(house)


@pytest.mark.parametrize("stream", STREAMED)
async def test_while_the_model_loads(stream: bool) -> None:
    daemon = FakeDaemon()
    daemon.script().loading.clear()
    async with serving(daemon) as house, asking(house, **chat_body(stream=stream)) as client:
        await turns_until(lambda: daemon.leases() == 1)
        if stream:
            await client.read_until(b"phase")
        client.close()
        await assert_freed(house)


async def test_one_of_two_that_wait_for_a_load() -> None:
    daemon = FakeDaemon()
    daemon.script().loading.clear()
    async with serving(daemon) as house:
        other = asyncio.create_task(house.chat(stream=True))
        async with asking(house, **chat_body(stream=True)) as client:
            await turns_until(lambda: daemon.leases() == 2)
            client.close()
            async with asyncio.timeout(BOUND):
                await daemon.ended.get()
        assert daemon.leases() == 1
        daemon.script().loading.set()
        assert events_of((await other).text)[-1] == "[DONE]"
        assert len(daemon.script().engines) == 1


async def test_while_a_whole_answer_is_made(house: House) -> None:
    house.script.otherwise = Reply("word ", endless=True)
    async with asking(house) as client:
        await turns_until(lambda: house.script.generations)
        client.close()
        await assert_freed(house)


@pytest.mark.parametrize("stream", STREAMED)
async def test_while_several_answers_are_made(house: House, stream: bool) -> None:
    house.script.otherwise = Reply("word ", endless=True)
    async with asking(house, TEXT, model="goose", prompt=["a", "b"], n=2, stream=stream) as client:
        await turns_until(lambda: len(house.script.generations) == 4)
        client.close()
        await assert_freed(house)
    assert len(house.script.generations) == 4


async def test_in_the_middle_of_its_own_request(house: House) -> None:
    async with connected(house) as client:
        await client.send(_head(CHAT, 1000) + b'{"model": ')
        await turns_until(lambda: house.server.server_state.tasks)
        client.close()
        ended = await assert_freed(house)
    assert ended.model == ""


async def test_a_client_that_stays_gets_everything(house: House) -> None:
    house.script.otherwise = Reply("x" * 10_000 + " " + "word " * 1000)
    async with asking(house, **chat_body(stream=True)) as client:
        await client.read_until(b"[DONE]")
    ended = await house.daemon.ended.get()
    assert (ended.status, ended.finish, ended.completion_tokens) == (200, "stop", 1001)
    assert not house.script.generations[0].cancelled


async def test_a_request_that_the_server_cuts_leaves_nothing_behind(house: House) -> None:
    """As uvicorn does with what is still running when its grace is over."""
    house.script.otherwise = Reply("x" * 10_000 + " ", endless=True)
    async with asking(house, **chat_body(stream=True)) as client:
        await client.read_until(b"xxx")
        for task in house.server.server_state.tasks:
            task.cancel()
        await assert_freed(house)


async def test_the_end_of_the_daemon_is_told_to_the_streams_it_cuts(house: House) -> None:
    house.script.otherwise = Reply("word ", endless=True)
    async with asking(house, **chat_body(stream=True)) as client:
        await client.read_until(b"word")
        closing = asyncio.create_task(house.daemon.close())
        last = await client.read_until(b'"error"')
        await closing
    assert b"[DONE]" not in last
    assert (await house.daemon.ended.get()).status == 503


async def test_no_task_outlives_its_request(house: House) -> None:
    house.script.otherwise = Reply("word ", endless=True)
    for n in (1, 3):
        async with asking(house, **chat_body(stream=True, n=n)) as client:
            await client.read_until(b"word")
            client.close()
            await assert_freed(house)
    await turns_until(lambda: not house.server.server_state.tasks)
    await turns_until(lambda: not [task for task in asyncio.all_tasks() if "answer" in task.get_name()])
