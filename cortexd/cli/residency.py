"""`cortexd unload`, `park`, `pin` and `unpin`."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import click
import httpx

from cortexd.cli.client import connect, model_path, post
from cortexd.cli.options import host_option, json_option
from cortexd.cli.output import human_memory, print_json
from cortexd.errors import CortexdError, DaemonUnreachable

models_argument = click.argument("models", metavar="MODEL...", nargs=-1, required=True)


@click.command()
@models_argument
@click.option("--force", is_flag=True, help="Now, though it is in use: its answers end with an error.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Come back when it is gone.")
@host_option
@json_option
def unload(models: tuple[str, ...], force: bool, wait: bool, address: str | None, as_json: bool) -> None:
    """Unload models when the answers they are giving are complete."""
    _order("unload", models, address, as_json, {"force": force, "wait": wait})


@click.command()
@models_argument
@host_option
@json_option
def park(models: tuple[str, ...], address: str | None, as_json: bool) -> None:
    """Give back the device memory of idle models but keep their workers, from which they come back quickly."""
    _order("park", models, address, as_json, {})


@click.command()
@models_argument
@host_option
@json_option
def pin(models: tuple[str, ...], address: str | None, as_json: bool) -> None:
    """Never evict these models, nor let them expire, until they are unpinned or the daemon ends."""
    _order("pin", models, address, as_json, {})


@click.command()
@models_argument
@host_option
@json_option
def unpin(models: tuple[str, ...], address: str | None, as_json: bool) -> None:
    """Let these models be evicted and expire again."""
    _order("unpin", models, address, as_json, {})


def _order(action: str, models: Sequence[str], address: str | None, as_json: bool, body: dict[str, Any]) -> None:
    async def act(client: httpx.AsyncClient, model: str) -> dict[str, Any]:
        return await post(client, model_path(model, action), body)

    asyncio.run(for_each(models, address, as_json, act))


async def for_each(
    models: Sequence[str],
    address: str | None,
    as_json: bool,
    act: Callable[[httpx.AsyncClient, str], Awaitable[dict[str, Any]]],
) -> None:
    """Act on all of them at once and say what became of each; raises the last error and prints those before it."""
    tell(await outcomes_of(models, address, act), as_json)


async def outcomes_of(
    models: Sequence[str],
    address: str | None,
    act: Callable[[httpx.AsyncClient, str], Awaitable[dict[str, Any]]],
) -> list[dict[str, Any] | BaseException]:
    """What became of each, or went wrong with it."""
    async with connect(address) as client:
        return await asyncio.gather(*(act(client, model) for model in models), return_exceptions=True)


def tell(outcomes: Sequence[dict[str, Any] | BaseException], as_json: bool) -> None:
    """Say what became of each; raises the last error and prints those before it."""
    reports = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
    errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    if as_json:
        print_json(reports)
    else:
        for report in reports:
            click.echo(_described(report))
    for error in errors[:-1]:
        if not isinstance(error, CortexdError):
            raise error
        if not isinstance(error, DaemonUnreachable):  # which is the same for all of them
            click.echo(f"cortexd: {error.message}", err=True)
    if errors:
        raise errors[-1]


def _described(report: dict[str, Any]) -> str:
    status = report["status"]
    facts = [status["state"], human_memory(status["memory"]), "pinned" if status["pinned"] else ""]
    return f"{report['id']}: {', '.join(fact for fact in facts if fact)}"
