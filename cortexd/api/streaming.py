"""From a lease to the last byte of an answer, and the prompt end of both when the client leaves."""

import asyncio
import logging
from collections.abc import Sequence
from urllib.parse import quote

import msgspec
from starlette.types import Receive, Scope, Send

from cortexd.api.account import Account
from cortexd.api.answers import Answers
from cortexd.api.dialects import Dialect, Written
from cortexd.api.event_stream import EventStream, raw_headers
from cortexd.api.refusals import bug, envelope
from cortexd.catalogue.spec import ModelSpec
from cortexd.engines.protocol import GenerationRequest
from cortexd.errors import CortexdError, Unavailable
from cortexd.lifecycle.lease import Lease
from cortexd.lifecycle.supervisor import Supervisor
from cortexd.wire import Delta

_UNINTERRUPTED = 32  # chunks in a row, after which other requests get a turn
_USUAL_LOAD = 5.0  # seconds until a client shall ask again, where nothing is known
_encode = msgspec.json.Encoder().encode
_log = logging.getLogger("cortexd.api")


class Manner(msgspec.Struct, frozen=True, kw_only=True):
    """How the client wants to be answered."""

    stream: bool
    usage_asked: bool
    patience: float | None  # seconds that a client which does not stream waits for a load; None: as long as it takes
    comment_s: float  # most seconds of silence before the first chunk of a stream
    headers: dict[str, str]


class Exchange:
    """The ASGI response to one request for answers.

    The pump runs in a task of its own beside a reader for the disconnect, so that neither a load, nor an engine, nor a `send`
    that flow control holds up can keep a lease alive after its client has left. A streaming generator as the body would
    be left suspended inside `send` until it is garbage-collected.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        spec: ModelSpec,
        requests: Sequence[GenerationRequest],
        dialect: Dialect,
        manner: Manner,
        account: Account,
    ) -> None:
        self._supervisor = supervisor
        self._spec = spec
        self._requests = requests
        self._dialect = dialect
        self._manner = manner
        self._account = account
        self._answers: Answers | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI
        """Raises CortexdError where nothing has been sent yet."""
        lease = self._supervisor.lease(self._spec, owner=self._account.request_id)
        answer = self._stream if self._manner.stream else self._whole
        name = self._account.request_id
        pump = asyncio.create_task(answer(lease, send), name=f"answer {name}")
        reader = asyncio.create_task(_disconnect(receive), name=f"watch who asked for answer {name}")
        try:
            await asyncio.wait({pump, reader}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            # Before anything is awaited again: nothing that still holds up this request may hold up the model.
            if self._answers is not None:
                self._answers.cancel()
            lease.release()
            pump.cancel()
            reader.cancel()
            await asyncio.wait({pump, reader})
        if pump.cancelled():
            self._account.client_left()
        else:
            pump.result()

    async def _whole(self, lease: Lease, send: Send) -> None:
        if not await lease.granted(self._manner.patience):
            raise Unavailable(
                f"{self._spec.name} is still being loaded; ask again.",
                retry_after=lease.progress().eta_s or _USUAL_LOAD,
            )
        answers = self._begin(lease)
        written = [Written() for _ in self._requests]
        async for index, delta in answers:
            self._account.first_token()
            written[index].add(delta)
        usage = answers.usage()
        self._account.finished(answers.finish, usage)
        body = _encode(self._dialect.whole(written, usage))
        headers = {
            "content-type": "application/json",
            "content-length": str(len(body)),
            **self._headers(lease),
        }
        await send({"type": "http.response.start", "status": 200, "headers": raw_headers(headers)})
        await send({"type": "http.response.body", "body": body})

    async def _stream(self, lease: Lease, send: Send) -> None:
        stream = EventStream(send)
        try:
            if not await lease.granted(timeout=0):
                await stream.start(self._headers(None))
                await self._tell_progress(stream, lease)
            answers = self._begin(lease)
            index, delta = await self._first(stream, lease, answers)
            if not stream.started:
                await stream.start(self._headers(lease))
            self._account.first_token()
            await stream.events(self._dialect.chunks(index, delta))
            await self._pump(stream, answers)
        except Exception as error:
            if not stream.started:
                raise
            await self._break_off(stream, error)

    async def _tell_progress(self, stream: EventStream, lease: Lease) -> None:
        while True:
            await stream.comment("cortexd", lease.progress())
            if await lease.granted(self._manner.comment_s):
                return

    def _begin(self, lease: Lease) -> Answers:
        self._account.granted(lease)
        self._answers = Answers(lease.engine, self._requests)
        return self._answers

    async def _first(self, stream: EventStream, lease: Lease, answers: Answers) -> tuple[int, Delta]:
        """The first delta. Until it is there nothing is sent, lest a refusal come too late to be a status."""
        first = asyncio.ensure_future(anext(answers))
        try:
            while not (await asyncio.wait([first], timeout=self._manner.comment_s))[0]:
                if not stream.started:
                    await stream.start(self._headers(lease))
                await stream.comment("cortexd", lease.progress())
            return first.result()
        finally:
            first.cancel()

    async def _pump(self, stream: EventStream, answers: Answers) -> None:
        in_a_row = 0
        async for index, delta in answers:
            await stream.events(self._dialect.chunks(index, delta))
            in_a_row += 1
            if in_a_row % _UNINTERRUPTED == 0:  # neither side of this loop waits while the engine is ahead
                await asyncio.sleep(0)
        usage = answers.usage()
        self._account.finished(answers.finish, usage)
        await stream.end([self._dialect.usage_chunk(usage)] if self._manner.usage_asked else [], done=True)

    async def _break_off(self, stream: EventStream, error: Exception) -> None:
        """An error after the first byte is one event, and no `[DONE]` after it."""
        if not isinstance(error, CortexdError):
            _log.error("request %s failed", self._account.request_id, exc_info=error)
            error = bug(self._account.request_id)
        self._account.failed(error)
        await stream.end([envelope(error)], done=False)

    def _headers(self, lease: Lease | None) -> dict[str, str]:
        """None: the model is still being loaded, and how long that takes is not known yet."""
        headers = {
            **self._manner.headers,
            "x-cortexd-model": quote(self._spec.name, safe="/:@+ "),
            "x-cortexd-tier": "cold" if lease is None else lease.tier,
            "openai-processing-ms": str(round(self._account.elapsed_ms)),
        }
        if lease is not None:
            headers["x-cortexd-load-ms"] = str(round(lease.load_ms))
            headers["x-cortexd-queue-ms"] = str(round(lease.queue_ms))
        return headers


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
