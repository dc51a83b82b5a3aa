"""Options that several commands share."""

import os
from pathlib import Path

import click

from cortexd.config import Settings, Sources, default_paths, load_settings, usual_file
from cortexd.errors import InvalidConfiguration

host_option = click.option(
    "--host",
    "address",
    envvar="CORTEXD_HOST",
    help="The daemon: an address (http://127.0.0.1:11435), host:port, or unix:/path of its socket.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
config_option = click.option(
    "--config",
    "config",
    envvar="CORTEXD_CONFIG",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The configuration file.  [default: cortexd.toml in the configuration directory, if there is one]",
)
set_option = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Set one key, e.g. server.port=8080."
)


def settings_from(config: Path | None, overrides: tuple[str, ...]) -> Settings:
    """The settings in force: flags over environment over file over defaults."""
    return load_settings(config or usual_file(os.environ), os.environ, overrides)


def sources_from(config: Path | None, overrides: tuple[str, ...]) -> Sources:
    """Where a daemon's settings come from; its file need not be there yet, unless it was named."""
    if config is not None and not config.exists():
        raise InvalidConfiguration(f"There is no configuration file {config}.")
    file = config or default_paths(os.environ).config / "cortexd.toml"
    return Sources(file=file.absolute(), environment=dict(os.environ), overrides=overrides)
