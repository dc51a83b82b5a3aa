"""`cortexd config history`, `diff`, `export`, `verify`, `backup` and `restore`: what was, and that it is not lost."""

import os
from pathlib import Path
from typing import Any

import click

from cortexd.cli.config_changes import version_type
from cortexd.cli.options import host_option, json_option
from cortexd.cli.output import human_time, print_json, print_table
from cortexd.cli.remote_configuration import CONFIG, SNAPSHOTS, RemoteConfiguration
from cortexd.config import default_paths

_file = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 1000), help="The last so many versions.")
@host_option
@json_option
def history(limit: int, address: str | None, as_json: bool) -> None:
    """The versions of the configuration, the newest first."""
    found = RemoteConfiguration(address).get(SNAPSHOTS, limit=limit)
    if as_json:
        print_json(found)
        return
    print_table(
        ("VERSION", "WHEN", "FROM", "BY", "WHY", ""),
        [
            (
                str(snapshot["version"]),
                human_time(snapshot["created_at"]),
                snapshot["source"],
                snapshot["author"],
                snapshot["reason"],
                ", ".join(_marks(snapshot, found)),
            )
            for snapshot in found["snapshots"]
        ],
    )


@click.command()
@click.argument("a", type=version_type)
@click.argument("b", required=False, type=version_type)
@host_option
@json_option
def diff(a: int, b: int | None, address: str | None, as_json: bool) -> None:
    """What is different in version B, by default the one in force, from version A."""
    remote = RemoteConfiguration(address)
    found = remote.get(f"{SNAPSHOTS}/{a}/diff/{b or remote.in_force().version or 0}")
    if as_json:
        print_json(found)
    else:
        click.echo(found["text"] or "Nothing is different.\n", nl=False)


@click.command()
@click.option(
    "-o", "--output", "file", type=_file, help="The file to write, in place of what is there; else it is printed."
)
@click.option("--bundle", is_flag=True, help="All versions, for `cortexd config import`.")
@host_option
def export(file: Path | None, bundle: bool, address: str | None) -> None:
    """The document in force as a configuration file, without what environment and flags lay over it."""
    remote = RemoteConfiguration(address)
    answer = remote.fetch(f"{SNAPSHOTS}/export") if bundle else remote.fetch(CONFIG, format="toml")
    if file is None:
        click.echo(answer.content, nl=False)
        return
    _write(file.resolve(), answer.content)


@click.command()
@host_option
@json_option
def verify(address: str | None, as_json: bool) -> None:
    """Read every version and say whether it is as it was written; the exit code is 1 where one is not."""
    found = RemoteConfiguration(address).get(f"{SNAPSHOTS}/verify")
    fault = found["fault"]
    if as_json:
        print_json(found)
    elif fault is None:
        click.echo("Every version is as it was written.")
    else:
        click.echo(f"Version {fault['version']} {fault['problem']}.")
    if fault is not None:
        raise click.exceptions.Exit(1)


@click.command()
@click.argument("file", type=_file)
@host_option
def backup(file: Path, address: str | None) -> None:
    """Copy the database of the running daemon to FILE, in place of what is there."""
    RemoteConfiguration(address).save("/admin/backup", file)


@click.command("restore")
@click.argument("file", metavar="BACKUP", type=_file)
def restore_backup(file: Path) -> None:
    """Put BACKUP in the place of the database, which is kept under another name. No daemon may be running."""
    from cortexd.store.backup import restore

    path = default_paths(os.environ).data / "cortexd.db"
    aside = restore(file, path)
    click.echo(f"{path} is restored.")
    if aside is not None:
        click.echo(f"What was there is now {aside}.")


def _marks(snapshot: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """What is particular about a version."""
    version = snapshot["version"]
    marks: list[str] = []
    if version == found["current"]:
        until = "" if found["revert_at"] is None else f" until {human_time(found['revert_at'])}, unless confirmed"
        marks.append(f"in force{until}")
    elif version == found["confirmed"]:
        marks.append("confirmed")
    marks += [mark for mark, so in (("pinned", snapshot["pinned"]), ("proven", snapshot["proven_at"])) if so]
    if snapshot["restored_from"] is not None:
        marks.append(f"back to {snapshot['restored_from']}")
    return marks


def _write(file: Path, content: bytes) -> None:
    """Whole or not at all, since a daemon may be watching; who may read it stays as it is."""
    from cortexd.store.replacement import replacement

    mode = file.stat().st_mode & 0o777 if file.exists() else 0o644
    with replacement(file) as new:
        new.write_bytes(content)
        new.chmod(mode)
