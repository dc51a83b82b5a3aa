"""`cortexd list`."""

import asyncio
from typing import Any

import click

from cortexd.cli.client import connect, get, is_there
from cortexd.cli.options import config_option, host_option, json_option, set_option, settings_from
from cortexd.cli.output import human_bytes, print_json, print_table


@click.command("list")
@host_option
@config_option
@set_option
@json_option
def list_models(address: str | None, config: Any, overrides: tuple[str, ...], as_json: bool) -> None:
    """The models that may be asked for, loaded or not.

    Asks the daemon; without one, looks where a daemon started now would look.
    """
    models = asyncio.run(_from_daemon(address))
    if models is None:
        models = _from_catalogue(config, overrides)
    if as_json:
        print_json(models)
        return
    print_table(
        ("NAME", "STATE", "SIZE", "KIND", "FROM"),
        [
            (
                model["id"],
                "damaged" if model["problem"] else model["state"],
                human_bytes(model["size"]),
                model["architecture"] or "?",
                model["problem"] or model["source"],
            )
            for model in models
        ],
    )


async def _from_daemon(address: str | None) -> list[dict[str, Any]] | None:
    async with connect(address) as client:
        if address is None and not await is_there(client):
            return None
        return [_flat(model) for model in (await get(client, "/v1/models"))["data"]]


def _from_catalogue(config: Any, overrides: tuple[str, ...]) -> list[dict[str, Any]]:
    from cortexd.catalogue.catalogue import Catalogue

    catalogue = Catalogue(settings_from(config, overrides))
    catalogue.refresh()
    return [
        {
            "id": spec.name,
            "state": "cold",
            "size": spec.size,
            "architecture": spec.architecture,
            "source": spec.source,
            "problem": spec.problem,
        }
        for spec in catalogue.specs()
    ]


def _flat(model: dict[str, Any]) -> dict[str, Any]:
    return {"id": model["id"], **model["cortexd"]}
