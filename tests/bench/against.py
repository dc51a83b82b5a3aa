"""A peer beside cortexd: any OpenAI server, driven by the same client with the same chats, in turns with ours."""

import asyncio
import contextlib
import functools
import json
import os
import random
import statistics
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any

import httpx
import psutil

from tests.bench import machine
from tests.bench.daemon import daemon
from tests.bench.shapes import Shape

CLIENTS = (1, 4, 16)
CHATS = 3  # of each client, one after the other
ANSWER = 32  # tokens
PROMPT = 512  # tokens, nearly: what the server says it has read is what counts
_QUESTION = 12  # words
_LENGTH = "tokens each"  # not a result: where the two differ, the rates beside it say little

# One token each, with the blank before it, in nearly every vocabulary.
_WORDS = ("the", "of", "and", "to", "in", "is", "that", "it", "was", "for", "on", "are", "with", "as", "he", "they")
# So that answers have their full length. Servers differ in what they take; a longer list is tried before a shorter one.
_ENDLESS: tuple[dict[str, Any], ...] = (
    {"ignore_eos": True, "logit_bias": {"0": -100}},
    {"ignore_eos": True},
    {"logit_bias": {"0": -100}},
    {},
)

Figures = dict[str, float]


class Refused(Exception):
    """The server did not take the request."""


@dataclass(frozen=True)
class Peer:
    """What was named on the command line; without a process its memory is not told."""

    address: str
    model: str | None = None
    pid: int | None = None


@dataclass(frozen=True)
class Server:
    client: httpx.AsyncClient
    model: str
    pid: int | None
    endless: dict[str, Any]


@dataclass
class Answer:
    """Of one streamed chat; seconds from the request."""

    first: float = 0.0
    tokens: int = 0
    prompt_tokens: int = 0


@dataclass
class Comparison:
    """Each round's figures of both servers."""

    ours: list[Figures] = field(default_factory=list[Figures])
    theirs: list[Figures] = field(default_factory=list[Figures])

    def medians(self) -> dict[str, dict[str, float]]:
        """By figure: ours, theirs where it is known, and the median of the rounds' ratios; above 1 ours is the better."""
        table: dict[str, dict[str, float]] = {}
        for name in self.ours[0]:
            row = table[name] = {"ours": statistics.median(figures[name] for figures in self.ours)}
            pairs = [(a[name], b[name]) for a, b in zip(self.ours, self.theirs, strict=True) if name in b]
            if pairs:
                row["theirs"] = statistics.median(theirs for _, theirs in pairs)
            if pairs and not name.endswith(_LENGTH):
                row["ratio"] = statistics.median(a / b if name.endswith("tok/s") else b / a for a, b in pairs)
        return table


async def compare(folder: Path, shape: Shape, peer: Peer, rounds: int) -> Comparison:
    """Each case is put to both, one right after the other, with the same chats; who is first changes with every round."""
    shape.checkpoint(folder)
    comparison = Comparison()
    async with daemon(folder) as door, _connected(str(door.base_url)) as our, _connected(peer.address) as their:
        (process,) = psutil.Process().children()
        ours = await _greeted(our, shape.name, process.pid)
        theirs = await _greeted(their, peer.model or await _first_model(their), peer.pid)
        turns = [(ours, comparison.ours), (theirs, comparison.theirs)]
        for number in range(rounds):
            for _, figures in turns:
                figures.append({})
            for case in (*(functools.partial(_chats, clients=clients) for clients in CLIENTS), _long_prompt, _resident):
                seed = random.randrange(2**32)
                for server, figures in turns:
                    figures[-1] |= await case(server, random.Random(seed))
            turns.reverse()
            print(f"round {number + 1} of {rounds}", file=sys.stderr)
    return comparison


def report(comparison: Comparison, shape: Shape, peer: Peer) -> dict[str, Any]:
    """Print the table; return what the JSON file says."""
    table = comparison.medians()
    now, load = datetime.now(UTC), os.getloadavg()[2]
    print(f"{now:%Y-%m-%d}, {machine.description()}; medians of {len(comparison.ours)} rounds in turns.")
    print(
        f"Ratios: the median of the rounds'; above 1, ours is the better. Load average over 15 minutes: {load:.1f}.\n"
    )
    print(f"| {shape.name}, answers of {ANSWER} tokens | cortexd | {peer.address} | ratio |\n|---|---:|---:|---:|")
    for name, row in table.items():
        cells = (f"{row[key]:.4g}" if key in row else "–" for key in ("ours", "theirs", "ratio"))
        print(f"| {name} | {' | '.join(cells)} |")
    return {
        "at": now.isoformat(),
        "machine": machine.description(),
        "load": load,
        "shape": shape.name,
        "peer": {"address": peer.address, "model": peer.model},
        "medians": table,
        "rounds": {"ours": comparison.ours, "theirs": comparison.theirs},
    }


def _connected(address: str) -> httpx.AsyncClient:
    # A connection for each request: a server may close one that was idle in the other's turn just as it is used again.
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    return httpx.AsyncClient(
        base_url=address.removesuffix("/").removesuffix("/v1"), timeout=None, limits=limits, trust_env=False
    )


async def _first_model(client: httpx.AsyncClient) -> str:
    response = await client.get("/v1/models")
    return response.raise_for_status().json()["data"][0]["id"]


async def _greeted(client: httpx.AsyncClient, model: str, pid: int | None) -> Server:
    """The server with its model loaded, and with the options that it was seen to take."""
    for endless in _ENDLESS:
        server = Server(client, model, pid, endless)
        try:
            await _chat(server, "hello", 1)
        except Refused:
            if not endless:
                raise
        else:
            return server
    raise AssertionError("the last of them has no options")


async def _chats(server: Server, dice: random.Random, clients: int) -> Figures:
    questions = [[_text(dice, _QUESTION) for _ in range(CHATS)] for _ in range(clients)]
    start = perf_counter()
    conversations = await asyncio.gather(*(_conversation(server, texts) for texts in questions))
    seconds = perf_counter() - start
    answers = [answer for conversation in conversations for answer in conversation]
    return {
        f"chats of {clients} at once, tok/s": sum(answer.tokens for answer in answers) / seconds,
        f"chats of {clients} at once, first token ms": 1000 * statistics.median(answer.first for answer in answers),
        f"chats of {clients} at once, {_LENGTH}": statistics.mean(answer.tokens for answer in answers),
    }


async def _long_prompt(server: Server, dice: random.Random) -> Figures:
    answer = await _chat(server, _text(dice, PROMPT - 12), 1)
    return {
        f"prompt of {PROMPT}, tok/s": answer.prompt_tokens / answer.first,
        f"prompt of {PROMPT}, first token ms": 1000 * answer.first,
        f"prompt of {PROMPT}, {_LENGTH}": answer.prompt_tokens,
    }


async def _resident(server: Server, dice: random.Random) -> Figures:
    return {} if server.pid is None else {"memory of its processes MB": _memory(server.pid) / 1e6}


async def _conversation(server: Server, texts: list[str]) -> list[Answer]:
    return [await _chat(server, text, ANSWER) for text in texts]


def _text(dice: random.Random, words: int) -> str:
    """So many words, the first a number that no other text begins with: no cache of prefixes can help."""
    return " ".join([str(dice.randrange(10**8, 10**9)), *dice.choices(_WORDS, k=words)])


async def _chat(server: Server, text: str, tokens: int) -> Answer:
    """Raises Refused, and RuntimeError where the stream tells of an error or not of its usage."""
    body: dict[str, Any] = {
        "model": server.model,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        **server.endless,
    }
    answer, usage, start = Answer(), None, perf_counter()
    async with server.client.stream("POST", "/v1/chat/completions", json=body) as response:
        if response.is_error:
            raise Refused(f"{response.url} answered {response.status_code}: {(await response.aread()).decode()}")
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line.removeprefix("data: "))
            if "error" in event:
                raise RuntimeError(f"{response.url}: {event['error']}")
            if not answer.first and _has_text(event):
                answer.first = perf_counter() - start
            usage = event.get("usage") or usage
    if usage is None:
        raise RuntimeError(
            f"{server.client.base_url} does not tell the usage of a stream: its tokens cannot be counted"
        )
    # A single token may be half a character, which is no text.
    answer.first = answer.first or perf_counter() - start
    answer.tokens, answer.prompt_tokens = usage["completion_tokens"], usage["prompt_tokens"]
    return answer


def _has_text(event: dict[str, Any]) -> bool:
    deltas = [choice.get("delta") or {} for choice in event["choices"]]
    return any(delta.get("content") or delta.get("reasoning_content") for delta in deltas)


def _memory(pid: int) -> int:
    """Bytes of a process and all below it, shared pages divided among those who share them where the system tells."""
    root, total = psutil.Process(pid), 0
    for process in (root, *root.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            memory = process.memory_full_info()
            total += getattr(memory, "pss", memory.rss)
    return total
