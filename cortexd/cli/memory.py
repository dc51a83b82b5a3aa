"""`cortexd memory`."""

import asyncio
from typing import Any

import click

from cortexd.cli.client import connect, get
from cortexd.cli.options import host_option, json_option
from cortexd.cli.output import human_bytes, human_memory, print_json, print_table

_PARTS = ("ceiling", "resident", "reserved", "debt", "foreign", "free")


@click.command()
@host_option
@json_option
def memory(address: str | None, as_json: bool) -> None:
    """The memory of each device: the budget, what models hold of it, and which of them may go."""
    report = asyncio.run(_memory(address))
    if as_json:
        print_json(report)
        return
    devices = [(device, *(human_bytes(at[part]) for part in _PARTS)) for device, at in report["devices"].items()]
    models = [
        (model["model"], model["state"], human_memory(model["memory"]), model["why_not"] or "it may go")
        for model in report["models"]
    ]
    print_table(("DEVICE", "BUDGET", "IN USE", "LOADING", "UNLOADING", "OTHERS", "FREE"), devices)
    click.echo()
    print_table(("NAME", "STATE", "HOLDS", "IF OTHERS NEED IT"), models)


async def _memory(address: str | None) -> dict[str, Any]:
    async with connect(address) as client:
        return await get(client, "/admin/memory")
