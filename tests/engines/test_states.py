"""State-tuned initial states in a real worker: what it says is what the official package says, and nobody else's answer changes."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from cortexd.engines.fork_server import ForkServer
from cortexd.engines.protocol import Generation, GenerationRequest
from cortexd.engines.rwkv import RwkvEngine
from cortexd.errors import BadRequest
from cortexd.wire import InitialState, TokenPrompt
from tests.engines.asking import Host, ask, collect, exhaust, spec_of, started
from tests.rwkv.oracle import Oracle
from tests.tuned_states import tuned_state, write_state

pytestmark = pytest.mark.asyncio(loop_scope="package")

PROMPT = [11, 30, 200, 7, 7, 19]
NEVER = 0  # id 0 ends a text


@pytest_asyncio.fixture(loop_scope="package")
async def engine(fork_server: ForkServer, checkpoint: Path) -> AsyncGenerator[RwkvEngine]:
    async with started(spec_of(checkpoint, max_concurrency=4), Host(fork_server)) as engine:
        yield engine


def poet(directory: Path, seed: int = 1, **sizes: int) -> InitialState:
    path = write_state(directory / f"{seed}.safetensors", tuned_state(seed, **sizes))
    return InitialState(str(path), f"hash of {seed}")


def asking(state: InitialState | None, tokens: int = 40, **sampling: object) -> GenerationRequest:
    request = ask("Hello", tokens, **sampling)
    return msgspec.structs.replace(request, state=state)


def oracle_says(checkpoint: Path, seed: int | None, count: int) -> str:
    """The likeliest tokens after the prompt, as the text that they are: token 1 is byte 0."""
    oracle, state = Oracle(checkpoint), None
    if seed is not None:
        _, state = oracle.forward([1])
        for i, part in enumerate(state):
            part.zero_()
            if i % 3 == 1:
                part.copy_(tuned_state(seed)[f"blocks.{i // 3}.att.time_state"].float())
    logits, state = oracle.forward(list(PROMPT), state)
    said: list[int] = []
    for _ in range(count):
        logits[NEVER] = -100.0
        said.append(int(logits.argmax()))
        logits, state = oracle.forward([said[-1]], state)
    return bytes(token - 1 for token in said).decode(errors="replace")


@pytest.mark.parametrize("seed", [None, 1, 2])
async def test_it_says_what_the_official_package_says(
    engine: RwkvEngine, checkpoint: Path, tmp_path: Path, seed: int | None
):
    state = poet(tmp_path, seed) if seed is not None else None
    request = asking(state, 12, temperature=0.0)
    text, _ = await collect(engine, msgspec.structs.replace(request, prompt=TokenPrompt(PROMPT)))
    assert text == oracle_says(checkpoint, seed, 12)


async def test_answers_from_several_states_and_none_run_side_by_side_as_if_alone(engine: RwkvEngine, tmp_path: Path):
    states = [None, poet(tmp_path, 1), poet(tmp_path, 2)]
    alone = [(await collect(engine, asking(state)))[0] for state in states]
    assert len(set(alone)) == 3
    together = await asyncio.gather(*(collect(engine, asking(state)) for state in states))
    assert [text for text, _ in together] == alone


async def test_a_running_answer_keeps_the_state_that_it_began_with(engine: RwkvEngine, tmp_path: Path):
    before, after = poet(tmp_path, 1), poet(tmp_path, 2)
    expected = [(await collect(engine, asking(state, 200)))[0] for state in (before, after)]
    running = engine.generate(asking(before, 200))
    begun = (await anext(running)).text
    Path(before.path).unlink()  # it is another model's, or nobody's, now
    new, _ = await collect(engine, asking(after, 200))
    rest = "".join([delta.text async for delta in running])
    assert [begun + rest, new] == expected


@pytest.mark.parametrize("count", [0, 1, 30])
async def test_an_answer_from_a_state_is_suspended_and_goes_on_as_if_nothing_had_been(
    engine: RwkvEngine, fork_server: ForkServer, checkpoint: Path, tmp_path: Path, count: int
):
    state = poet(tmp_path)
    expected, _ = await collect(engine, asking(state, 100))
    generation = engine.generate(asking(state, 100))
    text = "".join([(await anext(generation)).text for _ in range(count)])
    suspension = await engine.suspend()
    Path(state.path).unlink()
    async with started(spec_of(checkpoint), Host(fork_server)) as other:
        other.adopt(suspension)
        assert text + "".join([delta.text async for delta in generation]) == expected


async def test_answers_that_wait_for_a_slot_keep_their_states(
    engine: RwkvEngine, fork_server: ForkServer, checkpoint: Path, tmp_path: Path
):
    requests = [asking(poet(tmp_path, seed)) for seed in (1, 2, 3)]
    expected = [(await collect(engine, request))[0] for request in requests]
    async with started(spec_of(checkpoint, max_concurrency=1), Host(fork_server)) as narrow:
        generations = [narrow.generate(request) for request in requests]
        assert (await narrow.ask_load()).waiting
        narrow.adopt(await narrow.suspend())
        assert [await whole(generation) for generation in generations] == expected


async def whole(generation: Generation) -> str:
    return "".join([delta.text async for delta in generation])


async def test_a_file_that_vanished_or_does_not_fit_is_refused_and_the_worker_lives(engine: RwkvEngine, tmp_path: Path):
    running = engine.generate(asking(None, 30000))
    await anext(running)
    for state, words in [
        (InitialState(str(tmp_path / "gone"), "gone"), "cannot be read"),
        (poet(tmp_path, 5, layers=3), "has 3 layers of 2 heads of 64 x 64, the model 2 layers"),
    ]:
        with pytest.raises(BadRequest, match=words) as refused:
            await exhaust(engine.generate(asking(state)))
        assert refused.value.param == "state"
    assert (await anext(running)).finish is None
    running.cancel()
    assert (await collect(engine, asking(poet(tmp_path))))[1].finish == "length"


async def test_a_parked_worker_forgets_the_states_and_reads_them_again(engine: RwkvEngine, tmp_path: Path):
    state = poet(tmp_path)
    expected, _ = await collect(engine, asking(state))
    await engine.park()
    Path(state.path).rename(tmp_path / "away")
    await engine.resume(lambda progress: None)
    with pytest.raises(BadRequest, match="cannot be read"):
        await collect(engine, asking(state))
    (tmp_path / "away").rename(state.path)
    assert (await collect(engine, asking(state)))[0] == expected
