"""`cortexd why`: the journal of one model in plain words."""

import asyncio
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import click

from cortexd.cli.client import connect, get
from cortexd.cli.options import host_option, json_option
from cortexd.cli.output import human_bytes, human_memory, print_json

_INDENT = "    "


@click.command()
@click.argument("model")
@click.option(
    "--limit", default=20, show_default=True, type=click.IntRange(1, 1000), help="The last so many decisions."
)
@click.option("--since", help="From then on: a duration back (90s, 1h) or seconds since the epoch.")
@host_option
@json_option
def why(model: str, limit: int, since: str | None, address: str | None, as_json: bool) -> None:
    """Why MODEL was loaded, evicted, refused …: each decision with what was weighed, the newest last."""
    decisions = list(reversed(asyncio.run(_decisions(address, model, limit, since))))
    if as_json:
        print_json(decisions)
        return
    for decision in decisions:
        for line in lines_of(decision):
            click.echo(line)
    if not decisions:
        click.echo("Nothing was decided about it.")


async def _decisions(address: str | None, model: str, limit: int, since: str | None) -> list[dict[str, Any]]:
    async with connect(address) as client:
        return (await get(client, "/admin/journal", model=model, limit=limit, since=since))["decisions"]


def lines_of(decision: dict[str, Any]) -> Iterator[str]:
    """The decision, then indented the arithmetic of its moment and what was weighed."""
    when = datetime.fromtimestamp(decision["at"]).strftime("%Y-%m-%d %H:%M:%S")
    owner = decision["owner"] or ""
    whom = "" if owner in decision["reason"] else f" (for {owner})"
    yield f"{when}  {decision['kind']}: {decision['reason']}{whom}"
    for device, at in decision["memory"].items():
        yield f"{_INDENT}{device}: {arithmetic(at)}"
    for weighed in decision["weighed"]:
        yield f"{_INDENT}{alternative(weighed)}"


def arithmetic(at: dict[str, Any]) -> str:
    """The memory of one device in words."""
    held = at["resident"] + at["reserved"] + at["debt"]
    parts = [f"ceiling {human_bytes(at['ceiling'])}", f"held {human_bytes(held)}"]
    for name, words in (("reserved", "of it for loads under way"), ("debt", "of it on its way back")):
        parts += [f"{human_bytes(at[name])} {words}"] if at[name] else []
    parts += [f"other programs {human_bytes(at['foreign'])}"] if at["foreign"] else []
    parts += [f"needed {human_bytes(at['needed'])}"] if at.get("needed") else []
    return ", ".join(parts)


def alternative(weighed: dict[str, Any]) -> str:
    """What might have gone, or why it might not."""
    frees = human_memory(weighed["frees"]) or "nothing"
    cost = "" if weighed["cost"] is None else f", cost {weighed['cost']:.3g}"
    if weighed["chosen"]:
        return f"{weighed['model']} was chosen: frees {frees}{cost}"
    why_not = f": {weighed['why_not']}" if weighed["why_not"] else ""
    return f"{weighed['model']} would have freed {frees}{cost}{why_not}"
