"""Answers taken out of one worker and gone on with in another: their clients notice nothing but the time it takes."""

import asyncio
import os
import signal
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import pytest_asyncio

from cortexd import wire
from cortexd.engines.fork_server import ForkServer
from cortexd.engines.protocol import Generation
from cortexd.engines.rwkv import RwkvEngine
from cortexd.engines.rwkv_generation import RwkvSuspension
from cortexd.errors import EngineDied, ModelFault, ShuttingDown
from cortexd.wire import Delta
from tests.engines.asking import Host, ask, collect, exhaust, spec_of

pytestmark = pytest.mark.asyncio(loop_scope="package")


class Engines:
    """One after another, of one model with few slots."""

    def __init__(self, fork_server: ForkServer, checkpoint: Path) -> None:
        self._spec = spec_of(checkpoint, max_concurrency=2)
        self._host = Host(fork_server)
        self.made: list[RwkvEngine] = []

    async def start(self) -> RwkvEngine:
        engine = RwkvEngine(self._spec, self._host)
        self.made.append(engine)
        await engine.start(lambda progress: None)
        return engine


@pytest_asyncio.fixture(loop_scope="package")
async def engines(fork_server: ForkServer, checkpoint: Path) -> AsyncGenerator[Engines]:
    engines = Engines(fork_server, checkpoint)
    yield engines
    for engine in engines.made:
        await engine.stop(5.0)


async def read(generation: Generation, count: int = 2**30) -> tuple[str, Delta]:
    text, last = "", Delta(0)
    async for last in generation:
        text += last.text
        count -= 1
        if count == 0:
            break
    return text, last


@pytest.mark.parametrize("count", [0, 1, 3, 40])
async def test_an_answer_goes_on_in_a_new_worker_as_if_nothing_had_been(engines: Engines, count: int):
    engine = await engines.start()
    request = ask("Hello", 300, temperature=1.2, frequency_penalty=0.1)
    expected, last = await collect(engine, request)
    generation = engine.generate(request)
    text = (await read(generation, count))[0] if count else ""
    suspension = await engine.suspend()
    await engine.stop(5.0)
    assert suspension.size > 0
    (await engines.start()).adopt(suspension)
    rest, end = await read(generation)
    assert text + rest == expected
    assert (end.finish, end.usage) == (last.finish, last.usage)


async def test_prompts_half_read_and_answers_that_wait_go_on_too(engines: Engines):
    engine = await engines.start()
    requests = [ask("x" * 3000, 20, seed=seed) for seed in range(4)]
    expected = [(await collect(engine, request))[0] for request in requests]
    generations = [engine.generate(request) for request in requests]
    load = await engine.ask_load()
    suspension = await engine.suspend()
    assert load.waiting
    (await engines.start()).adopt(suspension)
    assert [text for text, _ in await asyncio.gather(*map(read, generations))] == expected


async def test_a_suspended_engine_is_empty_and_serves_others(engines: Engines):
    engine = await engines.start()
    generation = engine.generate(ask("Hello", 30000))
    suspension = await engine.suspend()
    load = await engine.ask_load()
    assert (load.running, load.waiting) == (0, 0)
    assert (await collect(engine, ask("Hello", 3)))[1].finish == "length"
    engine.adopt(suspension)
    await anext(generation)
    generation.cancel()


async def test_a_client_that_leaves_while_suspended_is_not_gone_on_with(engines: Engines):
    engine = await engines.start()
    gone, stays = engine.generate(ask("Hello", 30000)), engine.generate(ask("Hello", 30000, seed=2))
    suspension = await engine.suspend()
    before = suspension.size
    gone.cancel()
    with pytest.raises(StopAsyncIteration):
        await exhaust(gone)
    assert 0 < suspension.size < before
    engine.adopt(suspension)
    load = await engine.ask_load()
    assert load.running + load.waiting == 1
    stays.cancel()


async def test_a_suspension_that_fails_tells_every_client_why(engines: Engines):
    engine = await engines.start()
    generations = [engine.generate(ask("Hello", 30000, seed=seed)) for seed in range(3)]
    suspension = await engine.suspend()
    suspension.fail(ShuttingDown())
    suspension.fail(EngineDied())
    for generation in generations:
        with pytest.raises(ShuttingDown):
            await exhaust(generation)
    assert suspension.size == 0


async def test_a_worker_that_dies_while_it_saves_fails_its_answers(engines: Engines):
    engine = await engines.start()
    generation = engine.generate(ask("Hello", 30000))
    await anext(generation)
    os.kill(engine.pid, signal.SIGSTOP)
    suspending = asyncio.ensure_future(engine.suspend())
    await asyncio.wait([suspending], timeout=0.01)
    os.kill(engine.pid, signal.SIGKILL)
    with pytest.raises(EngineDied):
        await suspending
    with pytest.raises(EngineDied):
        await exhaust(generation)


async def test_answers_adopted_by_a_dead_engine_end(engines: Engines):
    engine, dead = await engines.start(), await engines.start()
    generation = engine.generate(ask("Hello", 30000))
    suspension = await engine.suspend()
    os.kill(dead.pid, signal.SIGKILL)
    await dead.ended()
    dead.adopt(suspension)
    with pytest.raises(EngineDied):
        await exhaust(generation)


async def test_what_was_saved_may_travel_in_any_number_of_parts(engines: Engines, monkeypatch: pytest.MonkeyPatch):
    engine = await engines.start()
    request = ask("Hello", 300)
    expected, _ = await collect(engine, request)
    generation = engine.generate(request)
    whole = await engine.suspend()
    monkeypatch.setattr(wire, "SAVED_PART", whole.size // 7)
    cut = RwkvSuspension()
    for same, parts in whole.release():
        cut.take_in(1, same)
        for part in wire.parts(b"".join(parts)):
            cut.add(1, part)
    engine.adopt(cut)
    assert (await read(generation))[0] == expected


async def test_damaged_parts_end_their_answer_alone(engines: Engines):
    engine = await engines.start()
    generation, other = engine.generate(ask("Hello", 30000)), engine.generate(ask("Hello", 30000, seed=2))
    suspension = await engine.suspend()
    for id, (same, parts) in enumerate(suspension.release()):
        suspension.take_in(id, same)
        suspension.add(id, parts[0][: None if id else -1])
    engine.adopt(suspension)
    with pytest.raises(ModelFault, match="damaged"):
        await exhaust(generation)
    await anext(other)
    other.cancel()
