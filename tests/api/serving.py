"""The application on a real server at a free port, configured as `cortexd serve` configures it."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncGenerator, Callable
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.routing import Mount

from cortexd.cli.server import HttpServer, bind
from tests.fakes import FakeDaemon

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"


class House:
    """A daemon that is being served, and a client for it."""

    def __init__(self, daemon: FakeDaemon, server: HttpServer, port: int, client: httpx.AsyncClient) -> None:
        self.daemon = daemon
        self.server = server
        self.port = port
        self.client = client
        self.script = daemon.script()

    async def chat(self, text: str = "hi", **fields: Any) -> httpx.Response:
        return await self.client.post(CHAT, json=chat_body(text, **fields))

    async def complete(self, prompt: Any = "hi", **fields: Any) -> httpx.Response:
        return await self.client.post(TEXT, json={"model": "goose", "prompt": prompt, **fields})


@contextlib.asynccontextmanager
async def serving(daemon: FakeDaemon) -> AsyncGenerator[House]:
    sock = bind("127.0.0.1", 0)
    port = sock.getsockname()[1]
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    url = f"http://127.0.0.1:{port}"
    client = httpx.AsyncClient(base_url=url, timeout=10, trust_env=False, limits=limits, verify=False)
    async with _listening(daemon, sock) as server, client:
        yield House(daemon, server, port, client)
    assert not daemon.bugs


@contextlib.asynccontextmanager
async def _listening(daemon: FakeDaemon, sock: socket.socket) -> AsyncGenerator[HttpServer]:
    """uvicorn's `serve` without its loop, whose ticks of 0.1 s would be most of a test's time."""
    server = HttpServer(daemon)
    server.config.load()
    server.lifespan = server.config.lifespan_class(server.config)
    await server.startup([sock])
    try:
        yield server
    finally:
        for listener in server.servers:
            listener.close()
        server.event_log.close()
        await daemon.close()
        async with asyncio.timeout(5):
            while server.server_state.tasks:
                await asyncio.wait(server.server_state.tasks)


def every_route(app: Starlette) -> list[tuple[str, set[str] | None]]:
    """Paths with their methods, as Starlette knows them; those under a mount too."""
    found: list[tuple[str, set[str] | None]] = []
    for route in app.routes:
        for inner in route.routes if isinstance(route, Mount) else [route]:
            prefix = route.path if inner is not route else ""
            found.append((prefix + inner.path, getattr(inner, "methods", None)))
    return found


def chat_body(text: str = "hi", **fields: Any) -> dict[str, Any]:
    return {"model": "goose", "messages": [{"role": "user", "content": text}], **fields}


def events_of(body: str) -> list[Any]:
    """The data of each event, decoded, "[DONE]" as it stands; comments are left out."""
    data = [block.removeprefix("data: ") for block in body.split("\n\n") if block.startswith("data: ")]
    return [each if each == "[DONE]" else json.loads(each) for each in data]


def comments_of(body: str) -> list[str]:
    return [block for block in body.split("\n\n") if block.startswith(":")]


async def turns_until(condition: Callable[[], Any]) -> None:
    """Give the loop to the others until it is so."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0)
