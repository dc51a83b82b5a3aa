"""`cortexd run`: one answer, or a conversation, with or without a daemon."""

import asyncio
import contextlib
import sys
import tempfile
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import click
import httpx

from cortexd.cli.client import connect, is_there, stream
from cortexd.cli.options import config_option, host_option, json_option, set_option, sources_from
from cortexd.cli.output import print_json
from cortexd.errors import BadRequest

_LEAVE = ("/bye", "/quit", "/exit")


@click.command()
@click.argument("model")
@click.argument("prompt", required=False)
@click.option("--system", help="What the model is told before the conversation.")
@click.option("--temperature", type=click.FloatRange(0, 2))
@click.option("--top-p", type=click.FloatRange(0, 1))
@click.option("--max-tokens", type=click.IntRange(min=1))
@click.option("--seed", type=int)
@host_option
@config_option
@set_option
@json_option
def run(
    model: str,
    prompt: str | None,
    system: str | None,
    address: str | None,
    config: Any,
    overrides: tuple[str, ...],
    as_json: bool,
    **sampling: Any,
) -> None:
    """One answer from MODEL to PROMPT and what comes on standard input; on a terminal without a PROMPT, a conversation.

    Works without a daemon: then one runs inside this command, for as long as it does.
    """
    piped = "" if sys.stdin.isatty() else sys.stdin.read()
    text = "\n".join(part for part in (prompt, piped.strip()) if part)
    if not text and not sys.stdin.isatty():
        raise BadRequest("There is no prompt: give one as an argument or on standard input.")
    body = {"model": model, "stream": True, "stream_options": {"include_usage": True}}
    body |= {name: value for name, value in sampling.items() if value is not None}
    conversation = _Conversation(body, system, as_json)
    asyncio.run(_run(conversation, text, address, config, overrides))


async def _run(
    conversation: "_Conversation", text: str, address: str | None, config: Any, overrides: tuple[str, ...]
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        client = await stack.enter_async_context(connect(address))
        if address is None and not await is_there(client):
            client = await stack.enter_async_context(_daemon_inside(config, overrides))
        if text:
            await conversation.ask(client, text)
            return
        while (line := await asyncio.to_thread(_read_line)) is not None:
            if line.strip() in _LEAVE:
                return
            if line.strip():
                await conversation.ask(client, line)


class _Conversation:
    """Messages so far, and how an answer is shown."""

    def __init__(self, body: dict[str, Any], system: str | None, as_json: bool) -> None:
        self._body = body
        self._messages: list[dict[str, str]] = [{"role": "system", "content": system}] if system else []
        self._as_json = as_json

    async def ask(self, client: httpx.AsyncClient, text: str) -> None:
        self._messages.append({"role": "user", "content": text})
        answer, finish, usage = "", None, None
        waited = False  # and something says so, on the line on which the answer is to begin
        async for event in stream(client, "/v1/chat/completions", {**self._body, "messages": self._messages}):
            if "cortexd" in event:
                _show_progress(event["cortexd"])
                waited = True
                continue
            usage = event.get("usage") or usage
            for choice in event["choices"]:
                finish = choice["finish_reason"] or finish
                piece = choice["delta"].get("content") or ""
                if waited and not answer:
                    waited = False
                    _clear_progress()
                answer += piece
                if not self._as_json:
                    click.echo(piece, nl=False)
        self._messages.append({"role": "assistant", "content": answer})
        if self._as_json:
            print_json({"model": self._body["model"], "answer": answer, "finish_reason": finish, "usage": usage})
        else:
            click.echo()


@contextlib.asynccontextmanager
async def _daemon_inside(config: Any, overrides: tuple[str, ...]) -> AsyncGenerator[httpx.AsyncClient]:
    """A daemon of our own behind a private socket: the same way through the house as with a daemon outside."""
    from cortexd.cli.server import bind_unix, running
    from cortexd.daemon import Daemon

    with tempfile.TemporaryDirectory(prefix="cortexd-") as folder:
        path = Path(folder) / "api.sock"
        async with (
            Daemon(sources_from(config, overrides)) as daemon,
            running(daemon, [bind_unix(path)]),
            connect(f"unix:{path}") as client,
        ):
            yield client


def _read_line() -> str | None:
    try:
        return input(">>> ")
    except EOFError:
        return None


def _show_progress(status: dict[str, Any]) -> None:
    if sys.stderr.isatty():
        percent = f" {status['percent']} %" if "percent" in status else ""
        click.echo(f"\r\x1b[2K{status['phase']}{percent}", nl=False, err=True)


def _clear_progress() -> None:
    if sys.stderr.isatty():
        click.echo("\r\x1b[2K", nl=False, err=True)
