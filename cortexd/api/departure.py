"""A client that leaves: what was done for it ends."""

import asyncio
from collections.abc import Coroutine
from typing import TypeVar

from starlette.requests import ClientDisconnect
from starlette.types import Receive

T = TypeVar("T")


async def departed(receive: Receive) -> None:
    """Returns when the client has left; its body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def while_there(receive: Receive, work: Coroutine[None, None, T]) -> T:
    """What `work` returns or raises; it is cancelled when the client leaves, and ClientDisconnect raised."""
    working = asyncio.create_task(work, name="work for a client")
    watching = asyncio.create_task(departed(receive), name="watch whether a client leaves")
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        working.cancel()
        watching.cancel()
        await asyncio.wait({working, watching})
    if working.cancelled():
        raise ClientDisconnect
    return working.result()
