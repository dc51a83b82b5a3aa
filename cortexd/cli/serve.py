"""`cortexd serve`: settings, daemon, application, server."""

import os
import socket
from typing import Any

import click
import uvloop

from cortexd import __version__, logs
from cortexd.cli.options import config_option, set_option, sources_from
from cortexd.cli.server import bind, serve_until_stopped
from cortexd.config import Sources, default_paths
from cortexd.daemon import Daemon
from cortexd.systemd import Notifier, consume_environment, listen_sockets, watchdog_interval


@click.command()
@click.option("--host", "host", help="Listen on this address.  [default: 127.0.0.1]")
@click.option(
    "--port", type=click.IntRange(0, 65535), help="Listen on this port; 0 takes a free one.  [default: 11435]"
)
@click.option(
    "--models", "directory", type=click.Path(file_okay=False), envvar="CORTEXD_MODELS", help="Look for models here."
)
@config_option
@set_option
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True
)
def serve(
    host: str | None, port: int | None, directory: str | None, config: Any, overrides: tuple[str, ...], log_level: str
) -> None:
    """Run the daemon until SIGTERM or Ctrl-C."""
    flags = [f"server.host={host}"] if host is not None else []
    flags += [f"server.port={port}"] if port is not None else []
    flags += [f"models.directories={directory}"] if directory is not None else []
    sources = sources_from(config, (*flags, *overrides))
    logs.configure(log_level)
    inherited = listen_sockets(os.environ)
    notifier = Notifier.from_environment(os.environ)
    watchdog = watchdog_interval(os.environ)
    consume_environment(os.environ)
    uvloop.run(_serve(sources, inherited.get("api"), notifier, watchdog))


async def _serve(
    sources: Sources, inherited: list[socket.socket] | None, notifier: Notifier, watchdog: float | None
) -> None:
    daemon = Daemon(sources, default_paths(os.environ))
    with daemon.events.subscribed(logs.log_event):
        async with daemon:
            server = daemon.settings.server
            sockets = inherited or [bind(server.host, server.port)]
            logs.say(f"cortexd {__version__}", models=[spec.name for spec in daemon.catalogue.specs()])
            await serve_until_stopped(daemon, sockets, notifier, watchdog)
