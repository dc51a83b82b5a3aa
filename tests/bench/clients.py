"""Sixteen people at once: their first tokens, what they get together, and what it takes of the memory."""

import asyncio
import random
import statistics
from time import perf_counter

from tests.bench import machine
from tests.bench.bench import Bench
from tests.bench.chats import QUESTION, Answer, Server, asked, chat, ours, text_of
from tests.bench.daemon import daemon
from tests.bench.figures import Figures
from tests.bench.shapes import Shape

CLIENTS = 16
CHATS = 3  # of each client, one after the other
ANSWER = 32  # tokens
KINDS = ("bf16", "int8")
_ALONE = 5  # chats, one after the other


async def conversations(
    server: Server, dice: random.Random, clients: int, chats: int = CHATS
) -> tuple[list[Answer], float]:
    """All chats of so many clients, and the seconds they took together."""
    questions = [[text_of(dice, QUESTION) for _ in range(chats)] for _ in range(clients)]
    start = perf_counter()
    answers = await asyncio.gather(*(_conversation(server, texts) for texts in questions))
    return [answer for conversation in answers for answer in conversation], perf_counter() - start


async def clients(bench: Bench, shape: Shape) -> Figures:
    figures = Figures()
    for kind in KINDS:
        async with daemon(bench.folder, CORTEXD_ENGINE__STRATEGY=f"cpu {kind}") as running:
            server, dice = ours(running.client, shape.name), random.Random()
            await chat(server, [asked("hello")], 1)
            for _ in range(bench.rounds):
                await running.until_idle()
                alone = [await chat(server, [asked(text_of(dice, QUESTION))], 1) for _ in range(_ALONE)]
                answers, seconds = await conversations(server, dice, CLIENTS)
                again = asyncio.create_task(conversations(server, dice, CLIENTS, 1))
                held = await _memory_while(again, running.pid)
                figures.note(
                    {
                        f"first token of a ready model, {kind}, ms": _first_ms(alone),
                        "its prompt, tokens": alone[0].prompt_tokens,
                        f"{CLIENTS} clients, {kind}, tok/s": sum(answer.tokens for answer in answers) / seconds,
                        f"{CLIENTS} clients, {kind}, first token ms": _first_ms(answers),
                        f"{CLIENTS} clients, {kind}, memory of all processes MB": held / 1e6,
                    }
                )
    return figures


def _first_ms(answers: list[Answer]) -> float:
    return 1000 * statistics.median(answer.to_first for answer in answers)


async def _conversation(server: Server, texts: list[str]) -> list[Answer]:
    return [await chat(server, [asked(text)], ANSWER) for text in texts]


async def _memory_while(task: asyncio.Task[object], pid: int) -> int:
    """The most that was seen, in a run of its own: looking takes time."""
    most = 0
    while not (await asyncio.wait([task], timeout=0.3))[0]:
        most = max(most, machine.memory_of(pid))
    await task
    return max(most, machine.memory_of(pid))
