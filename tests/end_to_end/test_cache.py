"""A chat with the real program: its next turn reads the new message alone, whatever happened in between."""

import asyncio
from pathlib import Path
from typing import Any

from watchfiles import awatch

from tests.end_to_end.conftest import RunningDaemon, Start

FIRST = [{"role": "user", "content": "What is cortexd, and what does it do for me?"}]
NEXT = "How do I roll back?"
GREEDY = {"temperature": 0, "max_tokens": 200}


async def turn(daemon: RunningDaemon, messages: list[dict[str, str]]) -> tuple[dict[str, str], dict[str, Any]]:
    """The answer as a message, and its usage."""
    body = {"model": "demo", "messages": messages, **GREEDY}
    answer = (await daemon.client.post("/v1/chat/completions", json=body)).raise_for_status().json()
    message = answer["choices"][0]["message"]
    return {"role": "assistant", "content": message["content"]}, answer["usage"]


def read(usage: dict[str, Any]) -> int:
    """Tokens of the prompt that had to be read."""
    return usage["prompt_tokens"] - usage["prompt_tokens_details"]["cached_tokens"]


async def until_kept(home: Path, count: int) -> None:
    """So many states are on the disk, where they come in the background."""
    async with asyncio.timeout(30):
        async for _ in awatch(home, recursive=True, rust_timeout=100, yield_on_timeout=True):
            if len(list(home.rglob("*.state"))) >= count:
                return


async def test_the_next_turn_of_a_chat_reads_the_new_message_alone_also_after_an_unload_and_a_restart(
    start: Start, tmp_path: Path
):
    home = tmp_path / "home"
    new = len(f"User: {NEXT}\n\nAssistant:")
    async with start(tmp_path, home) as daemon:
        answer, usage = await turn(daemon, FIRST)
        assert read(usage) == usage["prompt_tokens"]
        await until_kept(home, 2)  # of the prompt, and with its answer
        asked = [*FIRST, answer, {"role": "user", "content": NEXT}]
        expected, usage = await turn(daemon, asked)
        assert read(usage) == new
        await daemon.client.post("/admin/models/demo/unload", json={"wait": True})
        await daemon.until("demo", "cold")
        assert (await turn(daemon, asked))[0] == expected
    async with start(tmp_path, home) as daemon:
        again, usage = await turn(daemon, asked)
        assert again == expected
        assert read(usage) <= new
        streamed = await daemon.chat(NEXT, stream=True, stream_options={"include_usage": True})
        assert '"prompt_tokens_details":{"cached_tokens":' in streamed.text


async def test_nothing_is_found_while_the_cache_is_off_nor_after_it_was_forgotten(start: Start, tmp_path: Path):
    home = tmp_path / "home"
    async with start(tmp_path, home) as daemon:
        await turn(daemon, FIRST)
        await until_kept(home, 2)
        for path, found in (("/disable-state-cache", False), ("/enable-state-cache", True), ("/reset-state", False)):
            (await daemon.client.post(path)).raise_for_status()
            assert bool((await turn(daemon, FIRST))[1]["prompt_tokens_details"]["cached_tokens"]) == found
