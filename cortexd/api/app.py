"""The application: which URL goes where."""

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cortexd.api.admin import admin_routes
from cortexd.api.event_log import EventLog
from cortexd.api.gate import Gate
from cortexd.api.models import ModelEndpoints
from cortexd.api.openai import chat_endpoint, completion_endpoint
from cortexd.api.probes import Probes
from cortexd.api.refusals import refusal
from cortexd.api.runner import runner_routes
from cortexd.daemon import Daemon
from cortexd.errors import CortexdError, MethodNotAllowed, UnknownRoute


def create_app(daemon: Daemon) -> Starlette:
    """Whoever serves it closes `state.event_log` first, for what streams events would go on for ever."""
    probes, log = Probes(daemon), EventLog(daemon.events)
    app = Starlette(
        routes=[
            *_openai_routes(daemon),
            *runner_routes(daemon),
            Route("/healthz", probes.alive, methods=["GET"]),
            Route("/health", probes.alive, methods=["GET"]),
            Route("/readyz", probes.ready, methods=["GET"]),
            Route("/version", probes.version, methods=["GET"]),
            admin_routes(daemon, log),
        ],
        middleware=[Middleware(Gate, host=daemon.settings.server.host)],
        exception_handlers={CortexdError: _refused, HTTPException: _misrouted},
    )
    app.state.event_log = log
    app.router.redirect_slashes = False  # a URL is right or it is unknown
    return app


def _openai_routes(daemon: Daemon) -> list[Route]:
    """RWKV-Runner's clients leave out `/v1`."""
    models, chat, completion = ModelEndpoints(daemon), chat_endpoint(daemon), completion_endpoint(daemon)
    return [
        route
        for prefix in ("/v1", "")
        for route in (
            Route(f"{prefix}/models", models.all, methods=["GET"]),
            Route(f"{prefix}/models/{{id:path}}", models.one, methods=["GET"]),
            Route(f"{prefix}/chat/completions", chat, methods=["POST"]),
            Route(f"{prefix}/completions", completion, methods=["POST"]),
        )
    ]


async def _refused(request: Request, error: Exception) -> Response:  # noqa: ARG001 - Starlette's signature
    assert isinstance(error, CortexdError)
    return refusal(error)


async def _misrouted(request: Request, error: Exception) -> Response:
    """Of what Starlette itself refuses: no route, or not with this method."""
    assert isinstance(error, HTTPException)
    if error.status_code == MethodNotAllowed.status:
        response = refusal(MethodNotAllowed(f"This URL does not take {request.method}."))
    else:
        response = refusal(UnknownRoute())
    response.headers.update(error.headers or {})
    return response
