"""`/admin`: what operators speak."""

from starlette.middleware import Middleware
from starlette.routing import Mount, Route, Router

from cortexd.api.admin_events import EventsEndpoint
from cortexd.api.admin_journal import JournalEndpoint
from cortexd.api.admin_memory import MemoryAdministration
from cortexd.api.admin_models import LoadEndpoint, ModelAdministration
from cortexd.api.event_log import EventLog
from cortexd.api.local import LocalOnly
from cortexd.daemon import Daemon


def admin_routes(daemon: Daemon, log: EventLog) -> Mount:
    """One mount, so that nothing gets under it past its guard."""
    models, memory = ModelAdministration(daemon), MemoryAdministration(daemon)
    routes = [
        Route("/models", models.all, methods=["GET"]),
        Route("/models/{id:path}/load", LoadEndpoint(daemon), methods=["POST"]),
        Route("/models/{id:path}/unload", models.unload, methods=["POST"]),
        Route("/models/{id:path}/park", models.park, methods=["POST"]),
        Route("/models/{id:path}/pin", models.pin, methods=["POST"]),
        Route("/models/{id:path}/unpin", models.unpin, methods=["POST"]),
        Route("/models/{id:path}", models.one, methods=["GET"]),
        Route("/plan", models.plan, methods=["POST"]),
        Route("/memory", memory.memory, methods=["GET"]),
        Route("/wait-graph", memory.wait_graph, methods=["GET"]),
        Route("/journal", JournalEndpoint(daemon).rows, methods=["GET"]),
        Route("/events", EventsEndpoint(daemon, log), methods=["GET"]),
    ]
    return Mount("/admin", app=Router(routes, redirect_slashes=False), middleware=[Middleware(LocalOnly)])
