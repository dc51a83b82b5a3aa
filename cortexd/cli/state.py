"""`cortexd state`: state-tuned initial states."""

import asyncio
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from cortexd.cli.client import connect, delete, download, get, upload
from cortexd.cli.options import host_option, json_option
from cortexd.cli.output import human_bytes, print_json, print_table
from cortexd.errors import CortexdError


@click.group("state")
def state_group() -> None:
    """State-tuned initial states, which a model or a request starts from."""


@state_group.command("list")
@click.argument("name", required=False)
@host_option
@json_option
def list_states(name: str | None, address: str | None, as_json: bool) -> None:
    """The states there are; of NAME, every version there was."""
    states = asyncio.run(_states(address, name))
    if as_json:
        print_json(states)
        return
    print_table(
        ("NAME", "LAYERS", "HEADS", "SIZE", "STORED AS", "BYTES", "ADDED", "BY"),
        [
            (
                f"{_named(state)}{' (deleted)' if state['deleted'] else ''}",
                str(state["layers"]),
                str(state["heads"]),
                f"{state['size']} x {state['size']}",
                state["dtype"],
                human_bytes(state["bytes"]),
                datetime.fromtimestamp(state["created_at"]).strftime("%Y-%m-%d %H:%M:%S"),
                state["author"],
            )
            for state in states
        ],
    )


@state_group.command()
@click.argument("name")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@host_option
@json_option
def add(name: str, file: Path, address: str | None, as_json: bool) -> None:
    """Make FILE, a .pth or .safetensors file, the newest version of NAME. Requests that run keep what they began with."""
    state = asyncio.run(_add(address, name, file))
    if as_json:
        print_json(state)
        return
    shape = f"{state['layers']} x {state['heads']} x {state['size']} x {state['size']}"
    click.echo(f"{_named(state)}: {shape}, {human_bytes(state['bytes'])}")


@state_group.command()
@click.argument("name")
@host_option
def rm(name: str, address: str | None) -> None:
    """Delete every version of NAME, which no model may be configured to start from."""
    asyncio.run(_rm(address, name))
    click.echo(f"{name}: deleted")


@state_group.command()
@click.argument("name", metavar="NAME[@VERSION]")
@click.argument("file", required=False, type=click.Path(dir_okay=False, path_type=Path))
@host_option
def export(name: str, file: Path | None, address: str | None) -> None:
    """Write a state to FILE, by default NAME.safetensors, in fp32."""
    place = file or Path(f"{name}.safetensors")
    try:
        asyncio.run(_export(address, name, place))
    except OSError as error:
        raise CortexdError(f"{place} cannot be written ({error.strerror}).") from error
    click.echo(str(place))


async def _states(address: str | None, name: str | None) -> list[dict[str, Any]]:
    async with connect(address) as client:
        if name is None:
            return (await get(client, "/admin/states"))["states"]
        return (await get(client, _path(name)))["versions"]


async def _add(address: str | None, name: str, file: Path) -> dict[str, Any]:
    async with connect(address) as client:
        return await upload(client, _path(name), file)


async def _rm(address: str | None, name: str) -> None:
    async with connect(address) as client:
        await delete(client, _path(name))


async def _export(address: str | None, name: str, file: Path) -> None:
    async with connect(address) as client:
        await download(client, f"{_path(name)}/export", file)


def _path(name: str) -> str:
    return f"/admin/states/{quote(name, safe='@')}"


def _named(state: dict[str, Any]) -> str:
    return f"{state['name']}@{state['version']}"
