"""`/admin`: what operators speak."""

from starlette.convertors import Convertor, register_url_convertor
from starlette.middleware import Middleware
from starlette.routing import Mount, Route, Router

from cortexd.api.admin_backup import BackupEndpoint
from cortexd.api.admin_config import ConfigurationAdministration
from cortexd.api.admin_events import EventsEndpoint
from cortexd.api.admin_journal import JournalEndpoint
from cortexd.api.admin_memory import MemoryAdministration
from cortexd.api.admin_models import LoadEndpoint, ModelAdministration
from cortexd.api.admin_sessions import SessionAdministration
from cortexd.api.admin_snapshots import SnapshotAdministration
from cortexd.api.admin_states import StateAdministration
from cortexd.api.event_log import EventLog
from cortexd.api.local import LocalOnly
from cortexd.daemon import Daemon


class VersionConvertor(Convertor[int]):
    """In a URL: no more digits than the database takes."""

    regex = "[0-9]{1,18}"

    def convert(self, value: str) -> int:
        return int(value)

    def to_string(self, value: int) -> str:
        return str(value)


register_url_convertor("version", VersionConvertor())


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
        *_configuration_routes(daemon),
        *_state_routes(daemon),
    ]
    return Mount("/admin", app=Router(routes, redirect_slashes=False), middleware=[Middleware(LocalOnly)])


def _configuration_routes(daemon: Daemon) -> list[Route]:
    configuration, snapshots = ConfigurationAdministration(daemon), SnapshotAdministration(daemon)
    return [
        Route("/config", configuration.document, methods=["GET", "PUT", "PATCH"]),
        Route("/config/reload", configuration.reload, methods=["POST"]),
        Route("/config/status", configuration.status, methods=["GET"]),
        Route("/snapshots", snapshots.all, methods=["GET"]),
        Route("/snapshots/export", snapshots.export, methods=["GET"]),
        Route("/snapshots/import", snapshots.import_bundle, methods=["POST"]),
        Route("/snapshots/verify", snapshots.verify, methods=["GET"]),
        Route("/snapshots/{version:version}", snapshots.one, methods=["GET"]),
        Route("/snapshots/{a:version}/diff/{b:version}", snapshots.diff, methods=["GET"]),
        Route("/snapshots/{version:version}/rollback", snapshots.rollback, methods=["POST"]),
        Route("/snapshots/{version:version}/confirm", snapshots.confirm, methods=["POST"]),
        Route("/snapshots/{version:version}/pin", snapshots.pin, methods=["POST"]),
        Route("/snapshots/{version:version}/unpin", snapshots.unpin, methods=["POST"]),
        Route("/backup", BackupEndpoint(daemon), methods=["GET"]),
    ]


def _state_routes(daemon: Daemon) -> list[Route]:
    states, sessions = StateAdministration(daemon), SessionAdministration(daemon)
    return [
        Route("/sessions", sessions.all, methods=["GET"]),
        Route("/sessions/{id:path}", sessions.named, methods=["GET", "DELETE"]),
        Route("/states", states.all, methods=["GET"]),
        Route("/states/{name}", states.named, methods=["GET", "PUT", "DELETE"]),
        Route("/states/{name}/export", states.export, methods=["GET"]),
    ]
