"""`/admin/events`: everything that happens, as it happens."""

from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from cortexd.api.admin_journal import DECISIONS, name_of, one_of
from cortexd.api.departure import while_there
from cortexd.api.event_log import EventLog
from cortexd.api.event_stream import EventStream, named_event
from cortexd.daemon import Daemon
from cortexd.events import Decided, Event

_TAGS = tuple(kind.__name__ for kind in Event.__subclasses__())
_HEARTBEAT_S = 15.0
_GAP = named_event("gap", {"event": "gap", "reason": "Events are missing here: they are not kept any more."})


class EventsEndpoint:
    """ASGI endpoint. Starts after `Last-Event-ID`, else with what happens next; ends with its client or with the daemon."""

    def __init__(self, daemon: Daemon, log: EventLog, heartbeat_s: float = _HEARTBEAT_S) -> None:
        self._daemon = daemon
        self._log = log
        self._heartbeat_s = heartbeat_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        asked = request.query_params
        wanted = _Wanted(
            None if "model" not in asked else name_of(self._daemon, asked["model"]),
            one_of(asked, "kind", _TAGS + DECISIONS),
        )
        telling = self._tell(EventStream(send), wanted, request.headers.get("last-event-id"))
        await while_there(receive, telling)

    async def _tell(self, stream: EventStream, wanted: "_Wanted", resumed_after: str | None) -> None:
        log = self._log
        position = log.last if resumed_after is None else log.number_of(resumed_after)
        await stream.start({})
        if position is None or log.after(position).missed:
            await stream.write(_GAP)
            position = log.oldest - 1
        await stream.write(self._beat(position))
        while True:
            read = log.after(position)
            if read.missed:  # it reads more slowly than things happen
                break
            if read.events:
                position = read.events[-1][0]
                if told := b"".join(self._written(n, event) for n, event in read.events if wanted.fits(event)):
                    await stream.write(told)
            elif log.closed:
                await stream.close()
                return
            elif not await log.news(position, self._heartbeat_s):
                await stream.write(self._beat(position))
        await stream.close(_GAP)

    def _written(self, number: int, event: Event) -> bytes:
        return named_event(type(event).__name__, event, self._log.id_of(number))

    def _beat(self, position: int) -> bytes:
        """A comment that also says where to resume, though nothing the client wants to know may have happened for long."""
        return f":\nid: {self._log.id_of(position)}\n\n".encode()


class _Wanted:
    """What a client wants to be told of; None: everything."""

    def __init__(self, model: str | None, kinds: list[str] | None) -> None:
        self._model = model
        self._kinds = kinds

    def fits(self, event: Event) -> bool:
        if self._model is not None and getattr(event, "model", None) != self._model:
            return False
        kinds = (type(event).__name__, event.kind) if isinstance(event, Decided) else (type(event).__name__,)
        return self._kinds is None or any(kind in self._kinds for kind in kinds)
