"""`cortexd serve`: its options, and the settings they make."""

import os
from typing import Any

import click

from cortexd.cli.options import config_option, set_option, sources_from
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
    # Here, as `cortexd --help` asks each command for its first line and must not pay for a daemon.
    import uvloop

    from cortexd import logs
    from cortexd.cli.server import serve_daemon

    logs.configure(log_level)
    inherited = listen_sockets(os.environ)
    notifier = Notifier.from_environment(os.environ)
    watchdog = watchdog_interval(os.environ)
    consume_environment(os.environ)
    uvloop.run(serve_daemon(sources, inherited.get("api"), notifier, watchdog))
