"""`cortexd config set`, `import`, `rollback` and `confirm`: changes, made for the version that was shown."""

from pathlib import Path
from typing import Any

import click
import msgspec

from cortexd.cli.assignments import merge_patch
from cortexd.cli.options import host_option, json_option
from cortexd.cli.output import print_json
from cortexd.cli.proposing import Terms, carry_out, confirm_within_option, terms_options
from cortexd.cli.remote_configuration import CONFIG, SNAPSHOTS, Proposal, RemoteConfiguration
from cortexd.errors import UnknownVersion

version_type = click.IntRange(min=1, max=10**18 - 1)


@click.command("set")
@click.argument("assignments", metavar="[KEY=VALUE]...", nargs=-1)
@click.option(
    "--unset", multiple=True, metavar="KEY", help="Back to the default; of a model or an alias, take it away."
)
@confirm_within_option
@terms_options
@host_option
@json_option
def set_keys(
    assignments: tuple[str, ...], unset: tuple[str, ...], address: str | None, as_json: bool, **terms: Any
) -> None:
    """Change keys of the configuration in force, such as lifecycle.keep_alive=10m or model.goose.pin=true.

    A model or an alias that is not there yet is added. Names are written in quotes where TOML wants them:
    'model."rwkv7-0.4b".pin=true'.
    """
    agreed = Terms(**terms)
    agreed.require_somebody()
    if not assignments and not unset:
        raise click.UsageError("Say what to set: KEY=VALUE, or --unset KEY.")
    content = msgspec.json.encode(merge_patch(assignments, unset))
    remote = RemoteConfiguration(address)
    proposal = Proposal(method="PATCH", path=CONFIG, content=content, media_type="application/merge-patch+json")
    carry_out(remote, proposal, remote.in_force(), agreed, as_json)


@click.command("import")
@click.argument("bundle", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@terms_options
@host_option
@json_option
def import_bundle(bundle: Path, address: str | None, as_json: bool, **terms: Any) -> None:
    """Have in force what was in force where BUNDLE was exported; see `cortexd config export --bundle`."""
    from cortexd.store.bundle import unpack

    agreed = Terms(**terms)
    agreed.require_somebody()
    packed = bundle.read_bytes()
    last = unpack(packed)[-1]
    remote = RemoteConfiguration(address)
    carry_out(
        remote,
        Proposal(method="POST", path=f"{SNAPSHOTS}/import", content=packed, media_type="application/jsonl"),
        remote.in_force(),
        agreed,
        as_json,
        foretold_by=Proposal(method="PUT", path=CONFIG, content=bytes(last.body)),
    )


@click.command()
@click.argument("version", required=False, type=version_type)
@click.option("--previous", is_flag=True, help="The version before the one in force.")
@confirm_within_option
@terms_options
@host_option
@json_option
def rollback(version: int | None, previous: bool, address: str | None, as_json: bool, **terms: Any) -> None:
    """Have in force again what was in force as VERSION. Nothing is lost: this makes a new version."""
    agreed = Terms(**terms)
    agreed.require_somebody()
    if (version is None) != previous:
        raise click.UsageError("Name a version, or give --previous.")
    remote = RemoteConfiguration(address)
    in_force = remote.in_force()
    if version is None:
        version = remote.get(f"{SNAPSHOTS}/{in_force.version or 0}")["parent"]
        if version is None:
            raise UnknownVersion("There is no version before the one in force.")
    proposal = Proposal(method="POST", path=f"{SNAPSHOTS}/{version}/rollback")
    carry_out(remote, proposal, in_force, agreed, as_json)


@click.command()
@click.argument("version", required=False, type=version_type)
@host_option
@json_option
def confirm(version: int | None, address: str | None, as_json: bool) -> None:
    """Have VERSION, by default the one in force, stay in force; it may not be any other."""
    remote = RemoteConfiguration(address)
    status = remote.get(f"{CONFIG}/status")
    confirmed = remote.post(f"{SNAPSHOTS}/{version or status['version'] or 0}/confirm")
    if as_json:
        print_json(confirmed)
    elif status["revert_at"] is None:
        click.echo(f"Version {confirmed['version']} stays in force; it did not have to be confirmed.")
    else:
        click.echo(f"Version {confirmed['version']} stays in force.")
