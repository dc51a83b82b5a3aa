"""What operators do to models: look at them, load and unload, park and pin, and ask what a load would lead to."""

import asyncio
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from cortexd.api.admin_schema import ModelReport, ModelReports, Order, PlanRequest, spec_facts
from cortexd.api.bodies import json_response, read_body
from cortexd.api.decoding import BodyDecoder
from cortexd.api.departure import while_there
from cortexd.api.event_stream import EventStream, named_event
from cortexd.api.openai import find_model
from cortexd.api.refusals import envelope
from cortexd.catalogue.catalogue import Edition
from cortexd.catalogue.spec import ModelSpec
from cortexd.daemon import Daemon
from cortexd.errors import CortexdError, UnsupportedCheckpoint
from cortexd.events import Event, ModelMoved
from cortexd.lifecycle.lease import Lease
from cortexd.lifecycle.policy import Priority
from cortexd.lifecycle.states import GOING

_OWNER = "admin"
_LONGEST_NAME = 128  # of an author
_PROGRESS_S = 0.5  # between two events of a load's progress
_PRIORITIES = {"admin": Priority.ADMIN, "preload": Priority.PRELOAD}
_orders = BodyDecoder(Order)
_plans = BodyDecoder(PlanRequest)


class ModelAdministration:
    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    async def all(self, request: Request) -> Response:  # noqa: ARG002 - Starlette's signature
        await self._daemon.refresh_catalogue()
        specs = [*self._daemon.catalogue.specs(), *self._daemon.catalogue.editions()]
        served = [self._daemon.rollouts.serving(spec).spec for spec in specs]
        return json_response(ModelReports([report(self._daemon, spec) for spec in served]))

    async def one(self, request: Request) -> Response:
        return json_response(report(self._daemon, await self._asked_for(request)))

    async def unload(self, request: Request) -> Response:
        spec, order = await self._asked_for(request), await read_order(self._daemon, request)
        if spec.preload:
            await self._daemon.desire(spec.name, author_of(request), "unloaded", preload=False)
        self._daemon.administration.unload(spec, force=order.force)
        if order.wait:
            await while_there(request.receive, self._gone(spec))
        return json_response(report(self._daemon, spec), 200 if order.wait else 202)

    async def park(self, request: Request) -> Response:
        return await self._at_once(request, self._daemon.administration.park)

    async def pin(self, request: Request) -> Response:
        spec = await self._asked_for(request)
        await read_order(self._daemon, request)
        self._daemon.administration.pin(spec)
        try:
            await self._daemon.desire(spec.name, author_of(request), "pinned", pin=True)
        except CortexdError:
            self._daemon.administration.unpin(spec)
            raise
        return json_response(report(self._daemon, await self._asked_for(request)))

    async def unpin(self, request: Request) -> Response:
        spec = await self._asked_for(request)
        await read_order(self._daemon, request)
        if spec.pin:
            await self._daemon.desire(spec.name, author_of(request), "unpinned", pin=False)
            spec = await self._asked_for(request)
        self._daemon.administration.unpin(spec)
        return json_response(report(self._daemon, spec))

    async def plan(self, request: Request) -> Response:
        body = await read_body(request, self._daemon.settings.server.max_body_bytes)
        asked, _ = _plans.decode(body)
        return json_response(self._daemon.administration.plan(await find_model(self._daemon, asked.load)))

    async def _at_once(self, request: Request, act: Callable[[ModelSpec], None]) -> Response:
        spec = await self._asked_for(request)
        await read_order(self._daemon, request)
        act(spec)
        return json_response(report(self._daemon, spec))

    async def _asked_for(self, request: Request) -> ModelSpec:
        return await served_model(self._daemon, request.path_params["id"])

    async def _gone(self, spec: ModelSpec) -> None:
        """Until this incarnation has ended, or stays after all."""
        moved = asyncio.Event()

        def note(event: Event) -> None:
            if isinstance(event, ModelMoved):
                moved.set()

        status = self._daemon.supervisor.status
        incarnation = status(spec).incarnation
        with self._daemon.events.subscribed(note):
            while (now := status(spec)).state in GOING and now.incarnation == incarnation:
                moved.clear()
                await moved.wait()


class LoadEndpoint:
    """ASGI endpoint that takes a lease and gives it back once it is granted; its client may watch the progress."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._going_on: set[asyncio.Task[None]] = set()  # loads that nobody waits for

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        spec = await served_model(self._daemon, request.path_params["id"])
        order = await read_order(self._daemon, request)
        if spec.problem is not None:
            raise UnsupportedCheckpoint(spec.problem)
        lease = self._daemon.supervisor.lease(spec, owner=_OWNER, priority=_PRIORITIES[order.priority])
        author = author_of(request)
        if not order.wait:
            self._let_go_on(lease)
            await self._desire(spec, author)
            await json_response(report(self._daemon, spec), 202)(scope, receive, send)
            return
        try:
            if "text/event-stream" in request.headers.get("accept", ""):
                await while_there(receive, self._tell_progress(EventStream(send), spec, lease, author))
            else:
                await while_there(receive, lease.granted())
                lease.release()
                await self._desire(spec, author)
                await json_response(report(self._daemon, spec))(scope, receive, send)
        finally:
            lease.release()

    def _let_go_on(self, lease: Lease) -> None:
        task = asyncio.create_task(_settled(lease), name="load for an administrator")
        self._going_on.add(task)
        task.add_done_callback(self._going_on.discard)

    async def _desire(self, spec: ModelSpec, author: str) -> None:
        """What an administrator loads shall be there after a restart as well, until it is unloaded."""
        if not spec.preload and Edition.of(spec.name) is None:
            await self._daemon.desire(spec.name, author, "loaded", preload=True)

    async def _tell_progress(self, stream: EventStream, spec: ModelSpec, lease: Lease, author: str) -> None:
        """Events `progress`, then `done` with the model's status or `error`."""
        await stream.start({})
        try:
            while not await lease.granted(timeout=0):
                await stream.write(named_event("progress", lease.progress()))
                if await lease.granted(_PROGRESS_S):
                    break
            await self._desire(spec, author)
        except CortexdError as error:
            await stream.close(named_event("error", envelope(error)))
            return
        lease.release()
        await stream.close(named_event("done", report(self._daemon, spec)))


async def served_model(daemon: Daemon, name: str) -> ModelSpec:
    """What answers for this name; raises UnknownModel."""
    return daemon.rollouts.serving(await find_model(daemon, name)).spec


def report(daemon: Daemon, spec: ModelSpec) -> ModelReport:
    return ModelReport(spec.name, daemon.supervisor.status(spec), spec_facts(spec))


def author_of(request: Request) -> str:
    """Who asks, as far as they say so."""
    said = request.headers.get("x-cortexd-author", "").encode("latin-1").decode(errors="replace").strip()
    return said[:_LONGEST_NAME] if said.isprintable() and said else "admin"


async def read_order(daemon: Daemon, request: Request) -> Order:
    """Raises BadRequest."""
    body = await read_body(request, daemon.settings.server.max_body_bytes)
    return _orders.decode(body)[0] if body else Order()


async def _settled(lease: Lease) -> None:
    """A failure is told by events, and to whoever asks for the model next."""
    try:
        await lease.granted()
    except CortexdError:
        pass
    finally:
        lease.release()
