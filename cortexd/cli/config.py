"""`cortexd config`: what is in force and why, whether a file is valid, and what may stand in one."""

import os
from pathlib import Path

import click
import msgspec

from cortexd.cli.options import config_option, json_option, set_option
from cortexd.cli.output import print_json
from cortexd.config import Reading, read_settings, usual_file


@click.group("config")
def config_group() -> None:
    """Settings: what is in force and why, and what there is."""


@config_group.command()
@click.option("--origin", is_flag=True, help="Say where each value is from.")
@config_option
@set_option
@json_option
def show(origin: bool, config: Path | None, overrides: tuple[str, ...], as_json: bool) -> None:
    """The settings that a daemon started now would have, as a file that gives the same.

    Secrets are shown as where they are, never as what they are.
    """
    from cortexd.config.listing import entries, listing

    reading = read_settings(config or usual_file(os.environ), os.environ, overrides)
    if as_json:
        print_json(entries(reading) if origin else msgspec.to_builtins(reading.settings))
    else:
        click.echo(listing(reading, origins=origin), nl=False)


@config_group.command()
@click.argument("file", required=False, type=click.Path(dir_okay=False, path_type=Path), envvar="CORTEXD_CONFIG")
def check(file: Path | None) -> None:
    """Say everything that is wrong with FILE, by default the file that a daemon started now would read.

    Nothing is started, and variables do not count. The exit code is 2 for a file that is not valid.
    """
    place = file or usual_file(os.environ)
    if place is None:
        click.echo("There is no configuration file; the defaults are in force.")
        return
    click.echo(f"{place} is valid: {_summary(read_settings(place, {}, ()))}.")


@config_group.command()
def schema() -> None:
    """The JSON schema of the file, for editors."""
    from cortexd.config.schema import json_schema_text

    click.echo(json_schema_text(), nl=False)


@config_group.command()
def example() -> None:
    """A file with every key there is, commented out at its default."""
    from cortexd.config.example import example

    click.echo(example(), nl=False)


def _summary(reading: Reading) -> str:
    said = sum(origin != "default" for origin in reading.origins.values())
    models = reading.settings.model
    return f"{said} key{'' if said == 1 else 's'} set, {len(models)} model{'' if len(models) == 1 else 's'} described"
