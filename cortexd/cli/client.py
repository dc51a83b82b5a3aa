"""A client of the daemon's HTTP API."""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from cortexd.errors import BadRequest, CortexdError, DaemonUnreachable, QueueFull, Unavailable, UnknownModel

DEFAULT_ADDRESS = "http://127.0.0.1:11435"
_UNIX = "unix:"
_KINDS: dict[int, type[CortexdError]] = {400: BadRequest, 404: UnknownModel, 429: QueueFull, 503: Unavailable}


@asynccontextmanager
async def connect(address: str | None) -> AsyncGenerator[httpx.AsyncClient]:
    """A client for the daemon at `address`; waits as long as a load may take."""
    address = address or DEFAULT_ADDRESS
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


async def get(client: httpx.AsyncClient, path: str) -> Any:
    """The JSON at `path`; raises DaemonUnreachable and what the daemon answered."""
    try:
        response = await client.get(path)
    except httpx.TransportError as error:
        raise DaemonUnreachable(
            f"No cortexd daemon answers at {client.base_url}; start one with `cortexd serve`."
        ) from error
    await raise_for_error(response)
    return response.json()


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
                        raise Unavailable(event["error"]["message"])
                    yield event
    except httpx.TransportError as error:
        raise DaemonUnreachable(f"The connection to the daemon was lost ({error or type(error).__name__}).") from error


async def raise_for_error(response: httpx.Response) -> None:
    if not response.is_error:
        return
    await response.aread()
    try:
        message = response.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = f"The server answered {response.status_code}, and not as cortexd does."
    raise _KINDS.get(response.status_code, CortexdError)(message)
