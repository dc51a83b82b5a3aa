"""`cortexd events`: what happens, as it happens."""

import asyncio
from datetime import datetime
from typing import Any

import click
import msgspec

from cortexd.cli.client import ConnectionLost, DaemonUnreachable, connect, server_events
from cortexd.cli.options import host_option, json_option

AGAIN_S = 1.0  # until a lost connection is tried again


@click.command()
@click.option("--model", help="Only what happens to this model.")
@click.option(
    "--kind", "kinds", multiple=True, help="Only this, e.g. ModelMoved, RequestEnded, evict. May be repeated."
)
@host_option
@json_option
def events(model: str | None, kinds: tuple[str, ...], address: str | None, as_json: bool) -> None:
    """What happens, one line an event, until Ctrl-C; what happens while the connection is lost is made up for."""
    asyncio.run(follow(address, {"model": model, "kind": ",".join(kinds) or None}, as_json))


async def follow(address: str | None, query: dict[str, str | None], as_json: bool) -> None:
    """Raises DaemonUnreachable if there was no daemon from the beginning."""
    asked = {name: value for name, value in query.items() if value is not None}
    last = ""
    async with connect(address) as client:
        while True:
            headers = {"last-event-id": last} if last else {}
            try:
                async for event in server_events(client, "GET", "/admin/events", headers, params=asked):
                    last = event.id or last
                    if event.name:
                        click.echo(_json_line(event.data) if as_json else line_of(event.name, event.data))
            except ConnectionLost:
                pass
            except DaemonUnreachable:
                if not last:
                    raise
            await asyncio.sleep(AGAIN_S)


def _json_line(data: Any) -> str:
    return msgspec.json.encode(data).decode()


def line_of(name: str, data: dict[str, Any]) -> str:
    """One event for people."""
    at = datetime.fromtimestamp(data["at"]).strftime("%H:%M:%S ") if "at" in data else ""
    match name:
        case "ModelMoved":
            return f"{at}{data['model']}: {data['before']} → {data['after']} ({data['reason']})"
        case "Decided":
            return f"{at}{data['model']}: {data['kind']}: {data['reason']}"
        case "RequestEnded":
            return (
                f"{at}{data['model'] or data['route']}: {data['status']} {data['finish']} in {data['total_ms']:.0f} ms, "
                f"{data['prompt_tokens']} + {data['completion_tokens']} tokens ({data['request']})"
            )
        case "SessionLost":
            return f"{at}{data['model']}: session {data['session']}: {data['reason']}"
        case _:
            about = data.get("device") or data.get("model") or name
            return f"{at}{about}: {data.get('reason', name)}"
