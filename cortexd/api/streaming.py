"""From a lease to the last byte of an answer, and the prompt end of both when the client leaves."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from urllib.parse import quote

import msgspec
from starlette.types import Receive, Scope, Send

from cortexd.api.account import Account
from cortexd.api.answers import Answers
from cortexd.api.departure import departed
from cortexd.api.dialects import Dialect, Written
from cortexd.api.event_stream import EventStream, raw_headers
from cortexd.api.refusals import bug, envelope
from cortexd.catalogue.spec import ModelSpec
from cortexd.engines.protocol import GenerationRequest
from cortexd.errors import CortexdError, EngineDied, ShuttingDown, Unavailable
from cortexd.lifecycle.lease import Lease, Tier
from cortexd.lifecycle.supervisor import Supervisor
from cortexd.rollouts import Rollouts, Served
from cortexd.wire import Delta

_UNINTERRUPTED = 32  # chunks in a row, after which other requests get a turn
_encode = msgspec.json.Encoder().encode
_log = logging.getLogger("cortexd.api")


class Manner(msgspec.Struct, frozen=True, kw_only=True):
    """How the client wants to be answered."""

    stream: bool
    usage_asked: bool
    patience: float | None  # seconds that a client which does not stream waits for a load; None: as long as it takes
    comment_s: float  # most seconds of silence before the first chunk of a stream
    keep_alive: float | None  # seconds that the model shall stay after this use; None: as it is configured
    headers: dict[str, str]


class Granted(msgspec.Struct, frozen=True, kw_only=True):
    """What a stream that has waited is told in place of headers, which it has had before."""

    phase: str = "ready"
    tier: Tier
    load_ms: int
    queue_ms: int
    evicted: tuple[str, ...]
    config: str | None  # version of the configuration that answers


# What is asked of an engine, and how its answers are worded, depends on what answers. Raises BadRequest.
Word = Callable[[Served], tuple[Sequence[GenerationRequest], Dialect]]


class Exchange:
    """The ASGI response to one request for answers.

    The pump runs in a task of its own beside a reader for the disconnect, so that neither a load, nor an engine, nor a `send`
    that flow control holds up can keep a lease alive after its client has left. A streaming generator as the body would
    be left suspended inside `send` until it is garbage-collected.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        rollouts: Rollouts,
        served: Served,
        word: Word,
        manner: Manner,
        account: Account,
    ) -> None:
        self._supervisor = supervisor
        self._rollouts = rollouts
        self._served = served
        self._word = word
        self._requests, self._dialect = word(served)
        self._manner = manner
        self._account = account
        self._answers: Answers | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI
        """Raises CortexdError where nothing has been sent yet."""
        self._lease = self._ask()
        answer = self._stream if self._manner.stream else self._whole
        name = self._account.request_id
        pump = asyncio.create_task(answer(send), name=f"answer {name}")
        reader = asyncio.create_task(departed(receive), name=f"watch who asked for answer {name}")
        try:
            await asyncio.wait({pump, reader}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            # Before anything is awaited again: nothing that still holds up this request may hold up the model.
            self._let_go()
            pump.cancel()
            reader.cancel()
            await asyncio.wait({pump, reader})
        if pump.cancelled():
            self._account.client_left()
        else:
            pump.result()

    @property
    def _spec(self) -> ModelSpec:
        return self._served.spec

    def _ask(self) -> Lease:
        """Of what answers now: as the model is configured, or else as it last was when it loaded."""
        while True:
            self._account.config, self._account.fallback = self._served.header or "", self._served.cause
            owner = self._account.request_id
            try:
                return self._supervisor.lease(self._spec, owner=owner, keep_alive=self._manner.keep_alive)
            except CortexdError as error:
                self._fall_back(error)

    def _fall_back(self, error: CortexdError) -> None:
        """Raises the error where nothing else has ever answered for this model."""
        served = self._rollouts.fall_back(self._spec, error) if self._served.fallback is None else None
        if served is None:
            raise error
        self._served = served
        self._requests, self._dialect = self._word(served)

    def _ask_again(self, error: EngineDied) -> None:
        """The engine has died before the client has seen anything of it: what it does not know does not hurt it, once."""
        if self._supervisor.closing or not self._supervisor.has_died(self._spec, self._lease.incarnation):
            raise error
        self._let_go()
        self._lease = self._ask()

    def _let_go(self) -> None:
        if self._answers is not None:
            self._answers.cancel()
        self._lease.release()

    async def _whole(self, send: Send) -> None:
        await self._granted()
        try:
            written, answers = await self._collected()
        except EngineDied as error:
            self._ask_again(error)
            await self._granted()
            written, answers = await self._collected()
        usage = answers.usage()
        self._account.finished(answers.finish, usage)
        body = _encode(self._dialect.whole(written, usage))
        headers = {
            "content-type": "application/json",
            "content-length": str(len(body)),
            **self._headers(waited=False),
        }
        await send({"type": "http.response.start", "status": 200, "headers": raw_headers(headers)})
        await send({"type": "http.response.body", "body": body})

    async def _is_granted(self, timeout: float | None) -> bool:  # noqa: ASYNC109 - a time-out is an answer here
        """Whether the model is there by then; one that does not load as it is configured is asked for as it last was."""
        try:
            return await self._lease.granted(timeout)
        except CortexdError as error:
            self._fall_back(error)
            self._lease = self._ask()
            return await self._lease.granted(timeout)

    async def _granted(self) -> None:
        if not await self._is_granted(self._manner.patience):
            eta = self._lease.progress().eta_s
            usual = self._supervisor.status(self._spec).load_s
            raise Unavailable(
                f"{self._spec.name} is still being loaded; ask again.", retry_after=usual if eta is None else eta
            )

    async def _collected(self) -> tuple[list[Written], Answers]:
        answers = self._begin()
        written = [Written() for _ in self._requests]
        async for index, delta in answers:
            self._account.first_token()
            written[index].add(delta)
        return written, answers

    async def _stream(self, send: Send) -> None:
        stream = EventStream(send)
        try:
            try:
                index, delta = await self._first(stream)
            except EngineDied as error:
                self._ask_again(error)
                index, delta = await self._first(stream)
            if not stream.started:
                await stream.start(self._headers(waited=False))
            self._account.first_token()
            await stream.events(self._dialect.chunks(index, delta))
            await self._pump(stream)
        except Exception as error:
            if isinstance(error, EngineDied) and self._supervisor.closing:
                error = ShuttingDown()
            if not stream.started:
                raise error
            await self._break_off(stream, error)

    async def _tell_progress(self, stream: EventStream) -> None:
        while True:
            await stream.comment("cortexd", self._lease.progress())
            if await self._is_granted(self._manner.comment_s):
                break
        lease = self._lease
        granted = Granted(
            tier=lease.tier,
            load_ms=round(lease.load_ms),
            queue_ms=round(lease.queue_ms),
            evicted=lease.evicted,
            config=self._served.header,
        )
        await stream.comment("cortexd", granted)

    def _begin(self) -> Answers:
        self._account.granted(self._lease)
        self._answers = Answers(self._lease.engine, self._requests)
        return self._answers

    async def _first(self, stream: EventStream) -> tuple[int, Delta]:
        """The first delta. Unless it has to be waited for, nothing is sent until it is there: a refusal can still be a status."""
        if not await self._is_granted(0):
            if not stream.started:
                await stream.start(self._headers(waited=True))
            await self._tell_progress(stream)
        first = await self._next(stream, self._begin())
        assert first is not None, "an answer has at least an end"
        return first

    async def _next(self, stream: EventStream, answers: Answers) -> tuple[int, Delta] | None:
        """The next delta, None after the last; while it does not come, comments, lest the client take the stream for dead."""
        while True:
            try:
                async with asyncio.timeout(self._manner.comment_s):
                    return await anext(answers, None)
            except TimeoutError:
                if not stream.started:
                    await stream.start(self._headers(waited=False))
                await stream.comment("cortexd", self._lease.progress())

    async def _pump(self, stream: EventStream) -> None:
        answers = self._answers
        assert answers is not None, "the first delta has come"
        in_a_row = 0
        while (arrived := await self._next(stream, answers)) is not None:
            await stream.events(self._dialect.chunks(*arrived))
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

    def _headers(self, *, waited: bool) -> dict[str, str]:
        """`waited`: the model is still being loaded, and what that takes is not known yet."""
        headers = {
            **self._manner.headers,
            "x-cortexd-model": _in_header(self._spec.name),
            "openai-processing-ms": str(round(self._account.elapsed_ms)),
        }
        if (config := self._served.header) is not None:
            headers["x-cortexd-config"] = config
        lease = self._lease
        if not waited:
            headers["x-cortexd-tier"] = lease.tier
            headers["x-cortexd-load-ms"] = str(round(lease.load_ms))
            headers["x-cortexd-queue-ms"] = str(round(lease.queue_ms))
            if lease.evicted:
                headers["x-cortexd-evicted"] = ", ".join(map(_in_header, lease.evicted))
        return headers


def _in_header(name: str) -> str:
    return quote(name, safe="/:@+ ")
