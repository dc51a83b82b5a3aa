"""A client of the daemon's HTTP API."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import msgspec

from cortexd.cli.options import settings_from
from cortexd.errors import (
    BadRequest,
    CannotFit,
    Conflict,
    CortexdError,
    DaemonUnreachable,
    Forbidden,
    InvalidBundle,
    InvalidConfiguration,
    PreconditionRequired,
    QueueFull,
    StaleVersion,
    StoreFailed,
    StoreFull,
    Unavailable,
    UnknownModel,
    UnknownSession,
    UnknownState,
    UnknownVersion,
)

DEFAULT_ADDRESS = "http://127.0.0.1:11435"
_UNIX = "unix:"
_KINDS: dict[int, type[CortexdError]] = {
    400: BadRequest,
    403: Forbidden,
    404: UnknownModel,
    409: Conflict,
    429: QueueFull,
    503: Unavailable,
    507: CannotFit,
}
# Whose status another kind has already.
_OTHERS: tuple[type[CortexdError], ...] = (
    InvalidBundle,
    InvalidConfiguration,
    PreconditionRequired,
    StoreFailed,
    StoreFull,
    UnknownSession,
    UnknownState,
    UnknownVersion,
)
_BY_CODE: dict[str, type[CortexdError]] = {kind.code: kind for kind in (*_KINDS.values(), *_OTHERS)}
_PIECE = 2**20  # bytes of a file that are sent or taken at once


class ConnectionLost(DaemonUnreachable):
    """The connection to the daemon was lost."""


class ServerEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One server-sent event; a comment that carries an id has neither name nor data."""

    id: str = ""
    name: str = ""
    data: Any = None


def usual_address(config: Path | None = None) -> str:
    """Where a daemon with this configuration file, or else this user's, listens."""
    try:
        server = settings_from(config, ()).server
    except CortexdError:  # whatever is wrong with it, the daemon says so
        return DEFAULT_ADDRESS
    everywhere = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104 - where we call, not where we listen
    host = everywhere.get(server.host, server.host)
    return f"http://{host}:{server.port}" if server.port else DEFAULT_ADDRESS


@asynccontextmanager
async def connect(address: str | None) -> AsyncGenerator[httpx.AsyncClient]:
    """A client for the daemon at `address`; waits as long as a load may take."""
    address = address or usual_address()
    timeout = httpx.Timeout(None, connect=5.0)
    if address.startswith(_UNIX):
        transport = httpx.AsyncHTTPTransport(uds=address.removeprefix(_UNIX))
        client = httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=timeout)
    else:
        url = address if "://" in address else f"http://{address}"
        client = httpx.AsyncClient(base_url=url, timeout=timeout, trust_env=False)
    async with client:
        yield client


async def is_there(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/healthz", timeout=2.0)).is_success
    except httpx.TransportError:
        return False


async def get(client: httpx.AsyncClient, path: str, **query: Any) -> Any:
    """The JSON at `path`; raises DaemonUnreachable and what the daemon answered."""
    given = {name: value for name, value in query.items() if value is not None}
    return (await answer(client, "GET", path, params=given)).json()


async def post(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> Any:
    """What the daemon answers to `body`; raises like `get`."""
    return (await answer(client, "POST", path, json=body)).json()


async def delete(client: httpx.AsyncClient, path: str) -> Any:
    """What the daemon answers; raises like `get`."""
    return (await answer(client, "DELETE", path)).json()


async def upload(client: httpx.AsyncClient, path: str, file: Path) -> Any:
    """What the daemon answers to the file; raises like `get`."""

    async def content() -> AsyncGenerator[bytes]:
        with await asyncio.to_thread(file.open, "rb") as opened:
            while piece := await asyncio.to_thread(opened.read, _PIECE):
                yield piece

    size = (await asyncio.to_thread(file.stat)).st_size
    headers = {"content-length": str(size)}  # so that what is too large is refused before it is sent
    return (await answer(client, "PUT", path, content=content(), headers=headers)).json()


async def download(client: httpx.AsyncClient, path: str, file: Path) -> None:
    """What is at `path` as a new file, or none; raises FileExistsError, ConnectionLost, and like `get`."""
    began = False
    try:
        async with client.stream("GET", path) as response:
            await raise_for_error(response)
            with await asyncio.to_thread(file.open, "xb") as opened:
                began = True
                async for piece in response.aiter_bytes(_PIECE):
                    await asyncio.to_thread(opened.write, piece)
    except BaseException as error:
        if began:
            await asyncio.to_thread(file.unlink)
        if isinstance(error, httpx.TransportError):
            raise (ConnectionLost() if began else _unreachable(client)) from error
        raise


def model_path(name: str, action: str = "") -> str:
    return f"/admin/models/{quote(name, safe='/')}{action and '/'}{action}"


async def server_events(
    client: httpx.AsyncClient, method: str, path: str, headers: dict[str, str], **request: Any
) -> AsyncGenerator[ServerEvent]:
    """The events of a stream until it ends; raises ConnectionLost where it does so in the middle, and like `get`."""
    headers = {"accept": "text/event-stream", **headers}
    began = False
    try:
        async with client.stream(method, path, headers=headers, **request) as response:
            await raise_for_error(response)
            began = True
            fields: dict[str, str] = {}
            async for line in response.aiter_lines():
                name, _, value = line.partition(":")
                if line:
                    fields[name] = value.removeprefix(" ")
                    continue
                data = json.loads(fields["data"]) if "data" in fields else None
                yield ServerEvent(id=fields.get("id", ""), name=fields.get("event", ""), data=data)
                fields = {}
    except httpx.TransportError as error:
        raise (ConnectionLost(str(error) or None) if began else _unreachable(client)) from error


async def stream(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any]]:
    """The events of a streamed answer; a comment of the server comes as {"cortexd": {…}}."""
    try:
        async with client.stream("POST", path, json=body) as response:
            await raise_for_error(response)
            async for line in response.aiter_lines():
                if line.startswith(": cortexd "):
                    yield {"cortexd": json.loads(line.removeprefix(": cortexd "))}
                elif line.startswith("data: ") and line != "data: [DONE]":
                    event = json.loads(line.removeprefix("data: "))
                    if "error" in event:
                        raise failure(event["error"], Unavailable)
                    yield event
    except httpx.TransportError as error:
        raise ConnectionLost from error


async def raise_for_error(response: httpx.Response) -> None:
    if not response.is_error:
        return
    await response.aread()
    try:
        error = failure(response.json()["error"], _KINDS.get(response.status_code, CortexdError))
    except (ValueError, KeyError, TypeError):
        error = CortexdError(f"The server answered {response.status_code}, and not as cortexd does.")
    raise error


def failure(error: dict[str, Any], otherwise: type[CortexdError] = CortexdError) -> CortexdError:
    """The daemon's error, which keeps its sentence."""
    if error["code"] == StaleVersion.code:
        return StaleVersion(error["message"], current=error["current"], changed=error["changed"])
    return _BY_CODE.get(error["code"], otherwise)(error["message"])


async def answer(client: httpx.AsyncClient, method: str, path: str, **request: Any) -> httpx.Response:
    """The daemon's answer, which is no error; raises like `get`."""
    try:
        response = await client.request(method, path, **request)
    except httpx.TransportError as error:
        raise _unreachable(client) from error
    await raise_for_error(response)
    return response


def _unreachable(client: httpx.AsyncClient) -> DaemonUnreachable:
    return DaemonUnreachable(f"No cortexd daemon answers at {client.base_url}; start one with `cortexd serve`.")
