"""Everything at once for a while: short and long, cancelled, conversations, sessions, evictions.

`python -m tests.end_to_end.traffic --minutes 30`
"""

import argparse
import asyncio
import contextlib
import json
import random
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

import httpx
import psutil

from tests.checkpoint_files import tiny_state_dict, write_pth
from tests.end_to_end.conftest import RunningDaemon, pause, running_daemon

MODELS = ("goose", "swan", "duck")
CLIENTS = 12
SLOTS = 8  # of each model: fewer than clients, so that some wait
_SETTINGS = {
    "CORTEXD_MEMORY__CPU": "200 MB",  # one or two of the three
    "CORTEXD_LIFECYCLE__SUSPEND_AFTER": "1",
    "CORTEXD_ENGINE__MAX_CONCURRENCY": str(SLOTS),
    "CORTEXD_CACHE__HOST": "4 MB",  # small enough to be full soon, and to stay so
    "CORTEXD_CACHE__DISK": "16 MB",
}
_PERIOD = 0.5  # seconds between two looks at the memory
_GROWTH = 1.05, 8 * 2**20  # what the last third may hold of what the second did: a factor, and bytes beside it
_PATIENCE = 120.0  # seconds for one answer
_SEEDED = 6  # requests whose answers are known
_TURNS = 4
_THINKING = 0.8  # seconds between two requests of a client
_SESSIONS = 8
_TEXT = "the tide was against us and does not read timetables so we wait in the shade of a stack of crates"
_WORDS = _TEXT.split()


@dataclass
class Outcome:
    ended: Counter[str] = field(default_factory=Counter[str])  # requests, by what they were
    memory: list[int] = field(default_factory=list[int])  # bytes, of the daemon and its fork server
    evictions: int = 0  # as far as the journal tells
    problems: list[str] = field(default_factory=list[str])

    @property
    def growth(self) -> tuple[float, float]:
        """The medians of the second and the last third of the time."""
        third = len(self.memory) // 3
        return statistics.median(self.memory[third : 2 * third]), statistics.median(self.memory[-third:])


@dataclass
class Crowd:
    """What the clients have in common."""

    daemon: RunningDaemon
    outcome: Outcome
    known: dict[tuple[str, int], str] = field(default_factory=dict[tuple[str, int], str])

    async def client(self, dice: random.Random, until: float) -> None:
        kinds: dict[str, tuple[int, Callable[[random.Random], Awaitable[None]]]] = {
            "short": (4, self._short),
            "seeded": (4, self._seeded),
            "long": (1, self._long),
            "cancelled": (3, self._cancelled),
            "conversation": (2, self._conversation),
            "refused": (1, self._refused),
        }
        while monotonic() < until:
            (kind,) = dice.choices(list(kinds), [weight for weight, _ in kinds.values()])
            try:
                async with asyncio.timeout(_PATIENCE):
                    await kinds[kind][1](dice)
            except (TimeoutError, httpx.HTTPError, AssertionError) as error:
                self.outcome.problems.append(f"{kind}: {error!r}")
            self.outcome.ended[kind] += 1
            await asyncio.sleep(dice.expovariate(1 / _THINKING))

    async def answer(self, model: str, number: int) -> str:
        """To one of the requests whose answers are known, once they were given."""
        prompt = " ".join(random.Random(number).choices(_WORDS, k=8 + 9 * number))
        body = {"model": model, "prompt": prompt, "max_tokens": 24, "seed": number, "logit_bias": {"0": -100}}
        response = await self.daemon.client.post("/v1/completions", json=body, timeout=_PATIENCE)
        assert response.status_code == httpx.codes.OK, response.text
        return response.json()["choices"][0]["text"]

    async def _seeded(self, dice: random.Random) -> None:
        model, number = dice.choice(MODELS), dice.randrange(_SEEDED)
        text = await self.answer(model, number)
        assert text == self.known[model, number], f"{model} gave another answer to {number}: {text!r}"

    async def _short(self, dice: random.Random) -> None:
        response = await self.daemon.chat(_text(dice, 6), model=dice.choice(MODELS), max_tokens=dice.choice((1, 16)))
        assert response.status_code == httpx.codes.OK, response.text

    async def _long(self, dice: random.Random) -> None:
        response = await self.daemon.chat(_text(dice, 500), model=dice.choice(MODELS), max_tokens=4)
        assert response.status_code == httpx.codes.OK, response.text

    async def _cancelled(self, dice: random.Random) -> None:
        body = {"model": dice.choice(MODELS), "prompt": _text(dice, 20), "max_tokens": 2000, "stream": True}
        left = dice.randrange(1, 12)
        async with self.daemon.client.stream("POST", "/v1/completions", json=body) as response:
            async for line in response.aiter_lines():
                left -= line.startswith("data: ")
                if not left:
                    return

    async def _conversation(self, dice: random.Random) -> None:
        model, messages = dice.choice(MODELS), [{"role": "system", "content": _text(dice, 30)}]
        session = {"session": f"talk {dice.randrange(_SESSIONS)}"} if dice.random() < 0.5 else {}
        for _ in range(_TURNS):
            messages.append({"role": "user", "content": _text(dice, 10)})
            body = {"model": model, "messages": messages, "max_tokens": 8, **session}
            response = await self.daemon.client.post("/v1/chat/completions", json=body, timeout=_PATIENCE)
            assert response.status_code == httpx.codes.OK, response.text
            messages.append(
                {"role": "assistant", "content": response.json()["choices"][0]["message"]["content"] or "."}
            )

    async def _refused(self, dice: random.Random) -> None:
        response = await self.daemon.chat("Hello", model=dice.choice((*MODELS, "nobody")), temperature=-1.0)
        assert response.is_client_error, response.text


async def soak(seconds: float, seed: int) -> Outcome:
    """Every request must be answered as it should be, and nothing may be more at the end than it was in the middle."""
    outcome = Outcome()
    with tempfile.TemporaryDirectory(prefix="cortexd-soak-") as folder:
        for number, name in enumerate(MODELS):
            write_pth(Path(folder) / f"{name}.pth", tiny_state_dict(number, layers=2, vocabulary=257))
        async with running_daemon(Path(folder), **_SETTINGS) as daemon:
            crowd = Crowd(daemon, outcome)
            for model in MODELS:
                for number in range(_SEEDED):
                    crowd.known[model, number] = await crowd.answer(model, number)
            until = monotonic() + seconds
            clients = [asyncio.create_task(crowd.client(random.Random(seed + n), until)) for n in range(CLIENTS)]
            while monotonic() < until:
                outcome.memory.append(_memory(daemon))
                await asyncio.sleep(_PERIOD)
            await asyncio.gather(*clients)
            await _check_rest(crowd)
    return outcome


async def _check_rest(crowd: Crowd) -> None:
    """Every slot of every model is free, nothing is held open, and the memory is what it was."""
    daemon, outcome = crowd.daemon, crowd.outcome
    for model in MODELS:
        texts = await asyncio.gather(*(crowd.answer(model, n % _SEEDED) for n in range(SLOTS)))
        if texts != [crowd.known[model, n % _SEEDED] for n in range(SLOTS)]:
            outcome.problems.append(f"{model} gives other answers than at the start")
    outcome.evictions = len(await daemon.journal(kind="evict", limit="1000"))
    middle, end = outcome.growth
    if end > middle * _GROWTH[0] + _GROWTH[1]:
        outcome.problems.append(f"the daemon grew from {middle / 1e6:.1f} to {end / 1e6:.1f} MB")
    if not (await daemon.client.get("/readyz")).json()["ready"]:
        outcome.problems.append("the daemon is not ready any more")
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(10):  # connections of clients that went away are closed a moment later
            while len(psutil.Process(daemon.process.pid).net_connections()) > CLIENTS + 12:
                await pause()
            return
    outcome.problems.append("connections of clients that are gone are still open")


def _memory(daemon: RunningDaemon) -> int:
    """Of the daemon and its fork server, by themselves; of workers, which come and go, the growth would be another's."""
    root, total = psutil.Process(daemon.process.pid), 0
    for process in (root, *root.children()):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += process.memory_full_info().uss
    return total


def _text(dice: random.Random, words: int) -> str:
    return " ".join(dice.choices(_WORDS, k=words))


def main() -> None:
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print the memory of each moment too")
    asked = parser.parse_args()
    outcome = asyncio.run(soak(60 * asked.minutes, asked.seed))
    if asked.json:
        print(json.dumps(outcome.memory))
    middle, end = outcome.growth
    print(
        f"requests: {dict(outcome.ended)}; {outcome.evictions} evictions; daemon {middle / 1e6:.1f} MB, then {end / 1e6:.1f} MB"
    )
    print("\n".join(outcome.problems) or "every answer was what it should be; nothing has grown; every slot is free")
    sys.exit(bool(outcome.problems))


if __name__ == "__main__":
    main()
