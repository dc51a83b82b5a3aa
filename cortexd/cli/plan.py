"""`cortexd plan`: what would happen."""

import asyncio
from typing import Any

import click

from cortexd.cli.client import connect, post
from cortexd.cli.options import host_option, json_option
from cortexd.cli.output import human_bytes, human_memory, human_seconds, print_json
from cortexd.cli.why import arithmetic


@click.command()
@click.argument("what", type=click.Choice(["load"]))
@click.argument("model")
@host_option
@json_option
def plan(what: str, model: str, address: str | None, as_json: bool) -> None:
    """What would happen if MODEL were asked for now: what would go for it, and why. Changes nothing."""
    plan = asyncio.run(_plan(address, {what: model}))
    if as_json:
        print_json(plan)
        return
    for step in plan["steps"]:
        seconds = f" (about {human_seconds(plan['load_s'])})" if step["does"] == "load" else ""
        doing = "nothing to do for" if step["does"] == "nothing" else step["does"]
        click.echo(f"{doing} {step['model']}: {step['reason']}{seconds}")
    if plan["needed"]:
        click.echo(f"needed: {human_memory(plan['needed']) or 'nothing more'}")
    for device, at in plan["memory"].items():
        click.echo(f"{device}: {arithmetic(at)}")
    for weighed in plan["weighed"]:
        why_not = f": stays, {weighed['why_not']}" if weighed["why_not"] else ""
        click.echo(f"{weighed['model']} holds {human_memory(weighed['frees']) or human_bytes(0)}{why_not}")


async def _plan(address: str | None, body: dict[str, str]) -> dict[str, Any]:
    async with connect(address) as client:
        return await post(client, "/admin/plan", body)
