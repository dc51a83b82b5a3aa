"""`cortexd ps`."""

import asyncio
from typing import Any

import click

from cortexd.cli.client import connect, get
from cortexd.cli.options import host_option, json_option
from cortexd.cli.output import human_bytes, human_seconds, print_json, print_table

_COLUMNS = ("NAME", "STATE", "ENGINE", "DEVICE", "MEMORY", "REQUESTS", "WAITING", "PINNED", "UNLOADED IN", "LAST ERROR")


@click.command()
@host_option
@json_option
def ps(address: str | None, as_json: bool) -> None:
    """The models in memory, or on their way, and those that have failed."""
    models = [_flat(model) for model in asyncio.run(_models(address)) if model["status"]["state"] != "cold"]
    if as_json:
        print_json(models)
    else:
        print_table(_COLUMNS, [_row(model) for model in models])


async def _models(address: str | None) -> list[dict[str, Any]]:
    async with connect(address) as client:
        return (await get(client, "/admin/models"))["models"]


def _flat(model: dict[str, Any]) -> dict[str, Any]:
    return {"id": model["id"], **model["status"]}


def _row(model: dict[str, Any]) -> tuple[str, ...]:
    memory = {device: count for device, count in model["memory"].items() if count}
    loading = model["state"] == "loading"
    return (
        model["id"],
        f"loading {model['percent']} %" if loading else model["state"],
        model["engine"],
        ", ".join(memory),
        human_bytes(sum(memory.values())) if memory else "",
        str(model["leases"]),
        str(model["waiting"]),
        "yes" if model["pinned"] else "",
        _time_left(model),
        model["error"] or "",
    )


def _time_left(model: dict[str, Any]) -> str:
    if model["keep_alive_left_s"] is not None:
        return human_seconds(model["keep_alive_left_s"])
    return "in use" if model["leases"] else ""
