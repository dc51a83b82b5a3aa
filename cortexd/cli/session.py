"""`cortexd session`: chats that are kept beyond the life of their workers."""

import asyncio
from datetime import datetime
from typing import Any
from urllib.parse import quote

import click

from cortexd.cli.client import connect, delete, get
from cortexd.cli.options import host_option, json_option
from cortexd.cli.output import human_bytes, print_json, print_table


@click.group("session")
def session_group() -> None:
    """Sessions: what chats were left with, on the disk, for their next turn."""


@session_group.command("list")
@host_option
@json_option
def list_sessions(address: str | None, as_json: bool) -> None:
    """The sessions there are, those used last first."""
    sessions = asyncio.run(_sessions(address))
    if as_json:
        print_json(sessions)
        return
    print_table(
        ("SESSION", "MODEL", "TURNS", "TOKENS", "BYTES", "LAST USED", "TENANT"),
        [
            (
                session["session"],
                session["model"],
                str(session["turns"]),
                str(session["tokens"]),
                human_bytes(session["bytes"]),
                datetime.fromtimestamp(session["used_at"]).strftime("%Y-%m-%d %H:%M:%S"),
                session["tenant"],
            )
            for session in sessions
        ],
    )


@session_group.command()
@click.argument("session")
@click.option("--tenant", default="", help="Whose session it is.")
@host_option
def rm(session: str, tenant: str, address: str | None) -> None:
    """Forget what SESSION was left with: its next turn is read from the beginning."""
    asyncio.run(_rm(address, session, tenant))
    click.echo(f"{session}: removed")


async def _sessions(address: str | None) -> list[dict[str, Any]]:
    async with connect(address) as client:
        return (await get(client, "/admin/sessions"))["sessions"]


async def _rm(address: str | None, session: str, tenant: str) -> None:
    async with connect(address) as client:
        query = f"?tenant={quote(tenant, safe='')}" if tenant else ""
        await delete(client, f"/admin/sessions/{quote(session, safe='')}{query}")
