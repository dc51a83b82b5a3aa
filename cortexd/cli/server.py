"""The HTTP server around a daemon: sockets, signals, readiness, one deadline for the end."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncGenerator, Callable, Generator
from pathlib import Path

import uvicorn

from cortexd import __version__, logs
from cortexd.api.app import create_app
from cortexd.api.event_log import EventLog
from cortexd.config import Sources, default_paths
from cortexd.daemon import Daemon
from cortexd.errors import CortexdError
from cortexd.systemd import Notifier

_LAST_WORDS = 2.0  # seconds for the error chunks of streams that were cut at the deadline
_AGAIN = 0.1  # seconds until a message that the service manager did not take is sent again
_HEADER_LIMIT = 64 * 1024  # bytes of one request's headers; httptools knows no limit, hence h11


class HttpServer(uvicorn.Server):
    """uvicorn, told when to stop by us alone, and telling when it listens."""

    def __init__(self, daemon: Daemon) -> None:
        app = create_app(daemon)
        self.event_log: EventLog = app.state.event_log
        super().__init__(
            uvicorn.Config(
                app,
                http="h11",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                h11_max_incomplete_event_size=_HEADER_LIMIT,
                timeout_graceful_shutdown=round(daemon.settings.server.drain_s + _LAST_WORDS),
            )
        )
        self.listening = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.event_log.close()  # its streams have no end of their own
        await super().shutdown(sockets)


def bind(host: str, port: int) -> socket.socket:
    """A listening address; raises CortexdError with what to do where it is taken or not ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise CortexdError(
            f"cortexd cannot listen on {host}:{port} ({os.strerror(error.errno or 0)}); "
            "is one running already? Choose another port with --port."
        ) from error
    return sock


def bind_unix(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(str(path))
    return sock


async def serve_daemon(
    sources: Sources, inherited: list[socket.socket] | None, notifier: Notifier, watchdog: float | None
) -> None:
    """A daemon of these settings, served until it is stopped; on the sockets it inherited, or on its own."""
    daemon = Daemon(sources, default_paths(os.environ))
    with daemon.events.subscribed(logs.log_event):
        async with daemon:
            server = daemon.settings.server
            sockets = inherited or [bind(server.host, server.port)]
            logs.say(f"cortexd {__version__}", models=[spec.name for spec in daemon.catalogue.specs()])
            await serve_until_stopped(daemon, sockets, notifier, watchdog)


async def serve_until_stopped(
    daemon: Daemon, sockets: list[socket.socket], notifier: Notifier, watchdog: float | None
) -> None:
    """Serve until SIGTERM, SIGINT or the failure of a part; then drain, within `server.drain_s` for everything together."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if stop.is_set():  # asked a second time: not in a minute, but now
            logs.say("stopping at once")
            daemon.supervisor.end_all()
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    reloads: set[asyncio.Task[None]] = set()

    def on_hangup() -> None:
        task = asyncio.create_task(_reload(daemon, notifier), name="reload")
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    loop.add_signal_handler(signal.SIGHUP, on_hangup)
    async with running(daemon, sockets) as server:
        for sock in sockets:
            logs.say("listening", address=_address(sock))
        feeding = asyncio.create_task(_feed(daemon, notifier, watchdog), name="watchdog")
        stopped = asyncio.create_task(stop.wait(), name="wait for a signal")
        await asyncio.wait({stopped, daemon.failed}, return_when="FIRST_COMPLETED")
        logs.say(
            "stopping", waits_s=daemon.settings.server.drain_s, hint="a second signal ends what still runs at once"
        )
        server.config.timeout_graceful_shutdown = round(daemon.settings.server.drain_s + _LAST_WORDS)
        feeding.cancel()
        telling = asyncio.create_task(_tell_of_the_end(daemon, notifier), name="tell of the end")
        stopped.cancel()
        server.should_exit = True
        await daemon.close()
        telling.cancel()
    if daemon.failed.done():
        daemon.failed.result()


@contextlib.asynccontextmanager
async def running(daemon: Daemon, sockets: list[socket.socket]) -> AsyncGenerator[HttpServer]:
    """The server, listening; on leaving it takes no new connection and ends when the open ones have."""
    server = HttpServer(daemon)
    serving = asyncio.create_task(server.serve(sockets), name="http server")
    try:
        await server.listening.wait()
        yield server
    finally:
        server.should_exit = True
        await serving


async def _feed(daemon: Daemon, notifier: Notifier, interval: float | None) -> None:
    """Tell the service manager that we are ready, until it has taken it, and then that we live, as long as we do."""
    await _insist(notifier, lambda: notifier.ready("ready"))
    while interval is not None:
        if daemon.readiness().alive:
            notifier.watchdog()
        await asyncio.sleep(interval)


async def _reload(daemon: Daemon, notifier: Notifier) -> None:
    await _insist(notifier, notifier.reloading)
    await daemon.reload()
    await _insist(notifier, lambda: notifier.ready("ready"))


async def _tell_of_the_end(daemon: Daemon, notifier: Notifier) -> None:
    await _insist(notifier, lambda: notifier.stopping("draining"))
    await _insist(notifier, lambda: notifier.extend_timeout(daemon.settings.server.drain_s + 2 * _LAST_WORDS))


async def _insist(notifier: Notifier, send: Callable[[], bool]) -> None:
    """Until the service manager has taken it: what finds its queue full is lost."""
    while notifier.enabled and not send():  # noqa: ASYNC110 - nobody tells when there is room
        await asyncio.sleep(_AGAIN)


def _address(sock: socket.socket) -> str:
    name = sock.getsockname()
    return f"http://{name[0]}:{name[1]}" if isinstance(name, tuple) else f"unix:{name}"
