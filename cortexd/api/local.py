"""Who may administer: until there are API keys, whoever is on this machine, and no page in its browser."""

from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from cortexd.api.gate import is_loopback
from cortexd.errors import Forbidden

_BY_PROXY = ("forwarded", "x-forwarded-for")


class LocalOnly:
    """ASGI middleware. Nothing below it is reached from elsewhere, whatever address the server is bound to."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        # A proxy on this machine also comes from loopback, and its client need not.
        if not _is_local(scope) or any(name in headers for name in _BY_PROXY):
            raise Forbidden("This URL answers only to clients on the same machine, over loopback or a unix socket.")
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != headers.get("host", "").lower():
            raise Forbidden("This URL does not answer to pages of other sites.")
        await self._app(scope, receive, send)


def _is_local(scope: Scope) -> bool:
    client, server = scope.get("client"), scope.get("server")
    if client is not None:
        return is_loopback(client[0])
    return server is not None and server[1] is None  # a unix socket has a path and no port
