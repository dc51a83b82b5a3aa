"""`cortexd load`."""

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import click
import httpx
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from cortexd.cli.client import ConnectionLost, failure, model_path, post, server_events
from cortexd.cli.options import host_option, json_option
from cortexd.cli.output import human_seconds
from cortexd.cli.residency import models_argument, outcomes_of, tell


@click.command()
@models_argument
@click.option("--wait/--no-wait", default=True, show_default=True, help="Come back when it is loaded.")
@host_option
@json_option
def load(models: tuple[str, ...], wait: bool, address: str | None, as_json: bool) -> None:
    """Load models before anybody asks for them.

    Room is made for them as for a request; what cannot fit is refused with the arithmetic.
    """
    asyncio.run(_load(models, wait, address, as_json))


async def _load(models: tuple[str, ...], wait: bool, address: str | None, as_json: bool) -> None:
    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[left]}")
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as progress:

        async def act(client: httpx.AsyncClient, model: str) -> dict[str, Any]:
            if not wait:
                return await post(client, model_path(model, "load"), {"wait": False})
            bar = progress.add_task(model, total=100, left="")

            def show(percent: int, description: str, left: str) -> None:
                progress.update(bar, completed=percent, description=description, left=left)

            return await watched(client, model, show)

        outcomes = await outcomes_of(models, address, act)
    tell(outcomes, as_json)  # below the bars, which are gone by now


async def watched(client: httpx.AsyncClient, model: str, show: Callable[[int, str, str], None]) -> dict[str, Any]:
    """Load it; `show` is told the percent, what goes on and the time left. Raises what stands against it."""
    async for event in server_events(client, "POST", model_path(model, "load"), {}, json={}):
        match event.name:
            case "progress":
                phase, eta = event.data["phase"], event.data["eta_s"]
                left = "" if eta is None else human_seconds(eta)
                show(event.data["percent"], model if phase == "loading" else f"{model} ({phase})", left)
            case "done":
                show(100, model, "")
                return event.data
            case _:
                raise failure(event.data["error"])
    raise ConnectionLost
