"""What every request passes first and last: its id, the check of its Host, and the net under bugs."""

import ipaddress
import logging
import re
import secrets

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cortexd.api.refusals import bug, refusal
from cortexd.errors import CortexdError, Forbidden

_SANE_ID = re.compile(r"[A-Za-z0-9._:+/=-]{1,128}")
_log = logging.getLogger("cortexd.api")


class Gate:
    """ASGI middleware. Below it every request has `state["request_id"]`; above it no exception gets before an answer."""

    def __init__(self, app: ASGIApp, host: str) -> None:
        self._app = app
        self._host = host.lower()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = _request_id(headers)
        scope.setdefault("state", {})["request_id"] = request_id
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        try:
            self._check_origin(scope, headers)
            await self._app(scope, receive, send_with_id)
        except ClientDisconnect:
            return
        except CortexdError as error:
            await refusal(error)(scope, receive, send_with_id)
        except Exception:
            if started:
                raise  # the server logs it and cuts the connection, so that half an answer is not taken for a whole one
            _log.exception("request %s failed", request_id)
            await refusal(bug(request_id))(scope, receive, send_with_id)

    def _check_origin(self, scope: Scope, headers: Headers) -> None:
        """On a loopback address, refuse what a page from elsewhere has made the user's browser send.

        Judged by the address this connection came in at, which also holds for sockets that we inherited.
        """
        local = scope.get("server")
        if local is None or not is_loopback(local[0]):
            return
        host = _without_port(headers.get("host", ""))
        if host and host != self._host and not _means_this_machine(host):
            raise Forbidden("This server does not answer to the name in the Host header; call it localhost.")
        if headers.get("sec-fetch-site") == "cross-site":
            raise Forbidden("This server does not answer to pages of other sites.")


def _request_id(headers: Headers) -> str:
    given = headers.get("x-request-id", "")
    return given if _SANE_ID.fullmatch(given) else f"req_{secrets.token_hex(12)}"


def _without_port(host: str) -> str:
    name = host.lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return name.partition(":")[0].removesuffix(".")


def _means_this_machine(host: str) -> bool:
    return host == "localhost" or host.endswith(".localhost") or is_loopback(host)


def is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address.removeprefix("::ffff:")).is_loopback
    except ValueError:
        return False
