"""Server-sent events on an ASGI connection."""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from starlette.types import Send

_encode = msgspec.json.Encoder().encode
_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",  # nginx would hold the events back
}


class EventStream:
    """A response of events, each call one write: what belongs to one step is neither split nor joined with the next."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = False

    async def start(self, headers: Mapping[str, str]) -> None:
        self.started = True
        await self._send(
            {"type": "http.response.start", "status": 200, "headers": raw_headers({**_HEADERS, **headers})}
        )

    async def comment(self, label: str, facts: Any) -> None:
        await self.write(b": %b %b\n\n" % (label.encode(), _encode(facts)))

    async def events(self, events: Iterable[Any]) -> None:
        if body := b"".join(map(_event, events)):
            await self.write(body)

    async def end(self, events: Iterable[Any], *, done: bool) -> None:
        """The last events; `done` where the answer is complete."""
        await self.close(b"".join(map(_event, events)) + (b"data: [DONE]\n\n" if done else b""))

    async def write(self, body: bytes) -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def close(self, last: bytes = b"") -> None:
        await self._send({"type": "http.response.body", "body": last})


def raw_headers(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]


def named_event(name: str, data: Any, id: str = "") -> bytes:
    """An event with a name and, where `id` is given, one that a client may resume after."""
    return b"%bevent: %b\ndata: %b\n\n" % (b"id: %b\n" % id.encode() if id else b"", name.encode(), _encode(data))


def _event(event: Any) -> bytes:
    return b"data: %b\n\n" % _encode(event)
