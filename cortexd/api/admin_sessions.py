"""`/admin/sessions`: chats that are kept beyond the life of their workers."""

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from cortexd.api.bodies import json_response
from cortexd.api.terms import query_of
from cortexd.daemon import Daemon
from cortexd.engines.sessions import Session
from cortexd.errors import UnknownSession


class SessionReports(msgspec.Struct, frozen=True):
    """Those used last come first; one session has a report for each model that it was used with."""

    sessions: list[Session]


class SessionRemoved(msgspec.Struct, frozen=True):
    session: str
    tenant: str
    removed: int  # with how many models it was kept


class SessionAdministration:
    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    async def all(self, request: Request) -> Response:
        query_of(request)
        return json_response(SessionReports(await self._daemon.sessions.all()))

    async def named(self, request: Request) -> Response:
        """Of the `tenant` that the query names, else of who has no key."""
        name, tenant = request.path_params["id"], query_of(request, "tenant").get("tenant", "")
        if request.method == "DELETE":
            removed = await self._daemon.sessions.remove(name, tenant)
            return json_response(SessionRemoved(name, tenant, removed))
        found = [it for it in await self._daemon.sessions.all() if (it.session, it.tenant) == (name, tenant)]
        if not found:
            raise UnknownSession(f"There is no session {name}.")
        return json_response(SessionReports(found))
