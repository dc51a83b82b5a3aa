"""`cortexd config`: what is in force and why, whether a file is valid, and what may stand in one."""

import os
import tomllib
from pathlib import Path
from typing import Any

import click
import msgspec
from click.core import ParameterSource

from cortexd.cli.lazy import LazyGroup
from cortexd.cli.options import config_option, host_option, json_option, set_option
from cortexd.cli.output import human_time, print_json
from cortexd.cli.remote_configuration import CONFIG, TOML, Proposal, RemoteConfiguration
from cortexd.config import Reading, read_settings, settings_from_document, usual_file
from cortexd.errors import DaemonUnreachable

_COMMANDS = {
    "show": "cortexd.cli.config:show",
    "status": "cortexd.cli.config:status",
    "set": "cortexd.cli.config_changes:set_keys",
    "edit": "cortexd.cli.config_edit:edit",
    "check": "cortexd.cli.config:check",
    "history": "cortexd.cli.config_history:history",
    "diff": "cortexd.cli.config_history:diff",
    "rollback": "cortexd.cli.config_changes:rollback",
    "confirm": "cortexd.cli.config_changes:confirm",
    "export": "cortexd.cli.config_history:export",
    "import": "cortexd.cli.config_changes:import_bundle",
    "verify": "cortexd.cli.config_history:verify",
    "backup": "cortexd.cli.config_history:backup",
    "restore": "cortexd.cli.config_history:restore_backup",
    "schema": "cortexd.cli.config:schema",
    "example": "cortexd.cli.config:example",
}
_FILE_STATES = {
    "none": "there is none",
    "applied": "in force",
    "differs": "applied, and changed since; `cortexd config export` writes what is in force",
    "not applied": "not applied",
}


@click.group("config", cls=LazyGroup, places=_COMMANDS)
def config_group() -> None:
    """The configuration: what is in force and why, changes, and the way back."""


@click.command()
@click.option("--origin", is_flag=True, help="Say where each value is from.")
@click.option("--offline", is_flag=True, help="What a daemon started now would have, though one may be running.")
@host_option
@config_option
@set_option
@json_option
@click.pass_context
def show(
    context: click.Context,
    origin: bool,
    offline: bool,
    address: str | None,
    config: Path | None,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """The settings in force, as a file that gives the same.

    Asks the daemon; without one, or with --offline, --config or --set, says what a daemon started now would have of its file.
    Secrets are shown as where they are, never as what they are.
    """
    named = context.get_parameter_source("config") is ParameterSource.COMMANDLINE
    if not (offline or named or overrides):
        try:
            _show_remote(RemoteConfiguration(address), origin, as_json)
        except DaemonUnreachable:
            if address is not None:
                raise
        else:
            return
    from cortexd.config.listing import entries, listing

    reading = read_settings(config or usual_file(os.environ), os.environ, overrides)
    click.echo("What a daemon that is started now would have:", err=True)
    if as_json:
        print_json(entries(reading) if origin else msgspec.to_builtins(reading.settings))
    else:
        click.echo(listing(reading, origins=origin), nl=False)


@click.command()
@host_option
@json_option
def status(address: str | None, as_json: bool) -> None:
    """Which version is in force, who wanted it and why, and what is still to come of it."""
    found = RemoteConfiguration(address).get(f"{CONFIG}/status")
    if as_json:
        print_json(found)
        return
    for name, words in _status_lines(found):
        click.echo(f"{name + ':':<13}{words}")


@click.command()
@click.argument("file", required=False, type=click.Path(dir_okay=False, path_type=Path), envvar="CORTEXD_CONFIG")
@click.option("--plan", is_flag=True, help="Ask the daemon what it would do to its models.")
@host_option
def check(file: Path | None, plan: bool, address: str | None) -> None:
    """Say everything that is wrong with FILE, by default the file that a daemon started now would read.

    Nothing is started or changed, and variables do not count. The exit code is 2 for a file that is not valid.
    """
    place = file or usual_file(os.environ)
    if place is None:
        click.echo("There is no configuration file; the defaults are in force.")
        return
    click.echo(f"{place} is valid: {_summary(read_settings(place, {}, ()))}.")
    if plan:
        from cortexd.cli.proposing import tell_plan

        proposal = Proposal(method="PUT", path=CONFIG, content=place.read_bytes(), media_type=TOML)
        tell_plan(RemoteConfiguration(address).propose(proposal, "*", dry_run=True))


@click.command()
def schema() -> None:
    """The JSON schema of the file, for editors."""
    from cortexd.config.schema import json_schema_text

    click.echo(json_schema_text(), nl=False)


@click.command()
def example() -> None:
    """A file with every key there is, commented out at its default."""
    from cortexd.config.example import example

    click.echo(example(), nl=False)


def _show_remote(remote: RemoteConfiguration, origin: bool, as_json: bool) -> None:
    from cortexd.config.listing import listing

    in_force = remote.get(CONFIG, origin=True)
    text = remote.fetch(CONFIG, format="toml", origin=True).text
    version = in_force["version"]
    click.echo(f"In force{'' if version is None else f' as version {version}'}:", err=True)
    if origin:
        print_json(in_force["settings"]) if as_json else click.echo(text, nl=False)
        return
    settings = settings_from_document(tomllib.loads(text))
    if as_json:
        print_json(msgspec.to_builtins(settings))
    else:
        click.echo(listing(Reading(settings, {})), nl=False)


def _status_lines(found: dict[str, Any]) -> list[tuple[str, str]]:
    lines: list[tuple[str, str]] = []
    if found["version"] is not None:
        lines.append(("version", str(found["version"])))
        lines.append(("since", human_time(found["created_at"])))
        lines.append(("by", f"{found['author']} ({found['source']})"))
        lines.append(("reason", found["reason"]))
    if found["revert_at"] is not None:
        until = human_time(found["revert_at"])
        lines.append(
            ("lasts until", f"{until}, then {found['confirmed']} again; `cortexd config confirm` makes it stay")
        )
    file = found["file"] or "the configuration file"
    lines.append(("file", f"{file}: {_FILE_STATES[found['file_state']]}"))
    if found["waiting_for_a_start"]:
        lines.append(("at a start", ", ".join(found["waiting_for_a_start"])))
    if found["problem"]:
        lines.append(("problem", found["problem"].replace("\n", f"\n{'':<13}")))
    return lines


def _summary(reading: Reading) -> str:
    said = sum(origin != "default" for origin in reading.origins.values())
    models = reading.settings.model
    return f"{said} key{'' if said == 1 else 's'} set, {len(models)} model{'' if len(models) == 1 else 's'} described"
