"""The next turn of a long chat: the time to its first token, beside that of a first turn with a message as long."""

import random
import statistics
import tempfile
from pathlib import Path

from tests.bench.bench import Bench
from tests.bench.chats import QUESTION, Answer, Message, Server, answered, asked, chat, ours, text_of
from tests.bench.daemon import daemon
from tests.bench.figures import Figures
from tests.bench.shapes import Shape

HISTORIES = (1024, 8192, 32768)  # tokens, nearly
_ANSWER = 16  # tokens
_ASKED = 5  # times: first turns and next turns in turns
_LIMITS = {"CORTEXD_LIMITS__PROMPT_TOKENS": "65536"}


async def turns(bench: Bench, shape: Shape) -> Figures:
    """One history of each length, whatever the rounds: reading it takes most of the time."""
    figures = Figures()
    dice = random.Random()
    for length in HISTORIES:
        with tempfile.TemporaryDirectory(dir=bench.folder, prefix="home-") as home:
            await _one_history(bench.folder, Path(home), shape, dice, length, figures)
    return figures


async def _one_history(
    folder: Path, home: Path, shape: Shape, dice: random.Random, length: int, figures: Figures
) -> None:
    name = history_name(length)

    def note(what: str, answer: Answer, first: float) -> None:
        figures[f"next turn after {name}{what}, ms"].append(1000 * answer.to_first)
        figures[f"next turn after {name}{what} / first turn"].append(answer.to_first / first)
        figures[f"next turn after {name}{what}, tokens read"].append(answer.read)

    async with daemon(folder, home, **_LIMITS) as running:
        server = ours(running.client, shape.name)
        await chat(server, [asked("hello")], 1)
        told = [asked(text_of(dice, length))]
        answer = await chat(server, told, _ANSWER)
        figures[f"{name} of history read for the first time, first token ms"].append(1000 * answer.to_first)
        figures[f"{name} of history, tokens"].append(answer.prompt_tokens)
        told.append(answered(answer))
        firsts: list[float] = []
        for _ in range(_ASKED):
            await running.until_idle()
            first = await _next(server, [], dice)
            await running.until_idle()
            note("", await _next(server, told, dice), first.to_first)
            firsts.append(first.to_first)
            figures["first turn, ms"].append(1000 * first.to_first)
            figures["first turn, tokens read"].append(first.read)
        usual = statistics.median(firsts)
        for answer in await _at_once(server, told, dice):
            note(", asked at once", answer, usual)
        await running.until_idle()
        await running.unload(shape.name)
        note(", after an unload and with the load", await _next(server, told, dice), usual)
        await running.until_idle()
    async with daemon(folder, home, **_LIMITS) as running:
        await running.until_idle()
        answer = await _next(ours(running.client, shape.name), told, dice)
        note(", after a restart and with the load", answer, usual)


def history_name(length: int) -> str:
    return f"{length // 1024} k tokens"


async def _next(server: Server, told: list[Message], dice: random.Random) -> Answer:
    return await chat(server, [*told, asked(text_of(dice, QUESTION))], 1)


async def _at_once(server: Server, told: list[Message], dice: random.Random) -> list[Answer]:
    """Turns that follow as soon as an answer has ended, before it has been read again in idle time."""
    told = [*told, asked(text_of(dice, QUESTION))]
    told.append(answered(await chat(server, told, _ANSWER)))
    answers: list[Answer] = []
    for _ in range(_ASKED):
        told.append(asked(text_of(dice, QUESTION)))
        answers.append(await chat(server, told, _ANSWER))
        told.append(answered(answers[-1]))
    return answers
