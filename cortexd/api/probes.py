"""Whether the process lives, whether it can answer, and which version it is."""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from cortexd import __version__
from cortexd.daemon import Daemon


class Probes:
    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    async def alive(self, request: Request) -> Response:  # noqa: ARG002 - Starlette's signature, as below
        return JSONResponse({"status": "ok"})

    async def ready(self, request: Request) -> Response:  # noqa: ARG002
        readiness = self._daemon.readiness()
        return JSONResponse({"ready": readiness.ready, "checks": readiness.checks}, 200 if readiness.ready else 503)

    async def version(self, request: Request) -> Response:  # noqa: ARG002
        return JSONResponse({"version": __version__})
