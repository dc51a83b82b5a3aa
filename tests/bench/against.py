"""A peer beside cortexd: any OpenAI server, driven by the same client with the same chats, in turns with ours."""

import asyncio
import functools
import os
import random
import statistics
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from tests.bench import machine
from tests.bench.chats import Answer, Server, asked, chat, greeted, text_of
from tests.bench.clients import conversations
from tests.bench.completions import rate
from tests.bench.daemon import daemon
from tests.bench.shapes import Shape

CLIENTS = (1, 4, 16)
STREAMS = (1, 4, 8, 16, 32)
DECODED = 64  # tokens of each stream, whose question is short, so that all of them run together for long
ANSWER = 32
PROMPT = 512  # tokens, nearly: what the server says it has read is what counts
_LENGTH = "tokens each"  # not a result: where the two differ, the rates beside it say little

Figures = dict[str, float]


@dataclass(frozen=True)
class Peer:
    """What was named on the command line; without a process its memory is not told."""

    address: str
    model: str | None = None
    pid: int | None = None


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


async def compare(folder: Path, shape: Shape, peer: Peer, strategy: str, rounds: int) -> Comparison:
    """Each case is put to both, one right after the other, with the same chats; who is first changes with every round."""
    shape.checkpoint(folder)
    comparison = Comparison()
    async with (
        daemon(folder, CORTEXD_ENGINE__STRATEGY=strategy) as running,
        _connected(str(running.client.base_url)) as our,
        _connected(peer.address) as their,
    ):
        ours = await greeted(our, shape.name), running.pid
        theirs = await greeted(their, peer.model or await _first_model(their)), peer.pid
        turns = [(ours, comparison.ours), (theirs, comparison.theirs)]
        cases = [
            *(functools.partial(_chats, clients=clients) for clients in CLIENTS),
            *(functools.partial(_decode, streams=streams) for streams in STREAMS),
            _long_prompt,
        ]
        for number in range(rounds):
            for _, figures in turns:
                figures.append({})
            for case in cases:
                seed = random.randrange(2**32)
                for (server, _), figures in turns:
                    figures[-1] |= await case(server, random.Random(seed))
            for (_, pid), figures in turns:
                figures[-1] |= {} if pid is None else {"memory of its processes MB": machine.memory_of(pid) / 1e6}
            turns.reverse()
            print(f"round {number + 1} of {rounds}", file=sys.stderr)
    return comparison


def report(comparison: Comparison, shape: Shape, peer: Peer, strategy: str) -> dict[str, Any]:
    """Print the table; return what the JSON file says."""
    table = comparison.medians()
    now, load, description = datetime.now(UTC), os.getloadavg()[2], machine.description(machine.cores())
    print(f"{now:%Y-%m-%d}, {description}; medians of {len(comparison.ours)} rounds in turns.")
    print(
        f"Ratios: the median of the rounds'; above 1, ours is the better. Load average over 15 minutes: {load:.1f}.\n"
    )
    print(f"| {shape.name}, answers of {ANSWER} tokens | cortexd, {strategy} | {peer.address} | ratio |")
    print("|---|---:|---:|---:|")
    for name, row in table.items():
        cells = (f"{row[key]:.4g}" if key in row else "–" for key in ("ours", "theirs", "ratio"))
        print(f"| {name} | {' | '.join(cells)} |")
    return {
        "at": now.isoformat(),
        "machine": description,
        "load": load,
        "shape": shape.name,
        "strategy": strategy,
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


async def _chats(server: Server, dice: random.Random, clients: int) -> Figures:
    answers, seconds = await conversations(server, dice, clients)
    return {
        f"chats of {clients} at once, tok/s": sum(answer.tokens for answer in answers) / seconds,
        f"chats of {clients} at once, first token ms": 1000 * statistics.median(answer.to_first for answer in answers),
        f"chats of {clients} at once, {_LENGTH}": statistics.mean(answer.tokens for answer in answers),
    }


async def _decode(server: Server, dice: random.Random, streams: int) -> Figures:
    """While all of them run, as a server with fewer places would never have it: that is then for the other figures to show."""
    questions = [[asked(text_of(dice, 1))] for _ in range(streams)]
    answers: list[Answer] = await asyncio.gather(*(chat(server, question, DECODED) for question in questions))
    return {f"decode of {streams}, tok/s": rate(answers)}


async def _long_prompt(server: Server, dice: random.Random) -> Figures:
    answer = await chat(server, [asked(text_of(dice, PROMPT - 12))], 1)
    return {
        f"prompt of {PROMPT}, tok/s": answer.prompt_tokens / answer.to_first,
        f"prompt of {PROMPT}, first token ms": 1000 * answer.to_first,
        f"prompt of {PROMPT}, {_LENGTH}": answer.prompt_tokens,
    }
