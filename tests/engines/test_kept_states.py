"""States kept by real workers: found again by the next one, from the disk, and never where they are damaged."""

from pathlib import Path

import pytest

from cortexd.engines.fork_server import ForkServer
from cortexd.engines.kept_states import KeptStates
from cortexd.engines.protocol import GenerationRequest
from cortexd.engines.rwkv import RwkvEngine
from cortexd.wire import CacheLimits, ForgetStates, Sampling, TextPrompt
from tests.engines.asking import NEVER_ENDING, Host, collect, spec_of, started

pytestmark = pytest.mark.asyncio(loop_scope="package")

KEPT = CacheLimits(host=2**26, disk=2**26)
LONG = TextPrompt("x" * 1000)  # found after 896 tokens


@pytest.fixture
def host(fork_server: ForkServer, tmp_path: Path) -> Host:
    host = Host(fork_server, tmp_path)
    host.states.change(KEPT)
    return host


async def found_by(engine: RwkvEngine, prompt: TextPrompt = LONG) -> tuple[str, int]:
    """What it says, and how many tokens it did not have to read."""
    sampling = Sampling(seed=1, logit_bias=NEVER_ENDING)
    text, last = await collect(engine, GenerationRequest(prompt=prompt, sampling=sampling, max_tokens=20))
    assert last.usage is not None
    return text, last.usage.cached_tokens


async def found_by_another(host: Host, checkpoint: Path) -> tuple[str, int]:
    async with started(spec_of(checkpoint), host) as engine:
        return await found_by(engine)


async def test_the_next_worker_finds_on_the_disk_what_one_has_kept(engine: RwkvEngine, host: Host, checkpoint: Path):
    text, cached = await found_by(engine)
    assert cached == 0
    assert await found_by(engine) == (text, 896)
    await engine.stop(5.0)
    assert await found_by_another(host, checkpoint) == (text, 896)


async def test_damaged_files_are_not_found_and_the_answer_is_the_same(
    engine: RwkvEngine, host: Host, checkpoint: Path, tmp_path: Path
):
    text, _ = await found_by(engine)
    await engine.stop(5.0)
    files = list((tmp_path / "states").rglob("*.state"))
    assert len(files) >= 2  # of the prompt; that of the answer may have been read by then
    for path in files:
        data = bytearray(path.read_bytes())
        data[-9] ^= 4
        path.write_bytes(data)
    assert await found_by_another(host, checkpoint) == (text, 0)
    assert await found_by_another(host, checkpoint) == (text, 896)


async def test_a_change_of_the_rules_reaches_a_running_worker(engine: RwkvEngine, host: Host):
    text, _ = await found_by(engine)
    host.states.change(CacheLimits(host=2**26, disk=2**26, enabled=False))
    assert host.states.room == 0
    assert await found_by(engine) == (text, 0)
    host.states.change(KEPT)
    assert await found_by(engine) == (text, 896)


async def test_what_is_to_be_forgotten_is_found_nowhere(
    engine: RwkvEngine, host: Host, checkpoint: Path, tmp_path: Path
):
    text, _ = await found_by(engine)
    host.states.forget_in_memory()
    host.states.forget_on_disk()
    assert await found_by(engine) == (text, 0)
    host.states.forget_in_memory()
    await engine.stop(5.0)
    assert not list((tmp_path / "states").rglob("*.state"))
    assert await found_by_another(host, checkpoint) == (text, 0)


async def test_memory_that_is_given_back_is_not_missed_where_there_is_a_disk(engine: RwkvEngine, host: Host):
    text, _ = await found_by(engine)
    host.states.relieve()
    assert await found_by(engine) == (text, 896)


async def test_an_engine_that_has_ended_is_told_nothing(host: Host, checkpoint: Path):
    async with started(spec_of(checkpoint), host):
        assert host.states._running
    assert not host.states._running


async def test_those_that_run_are_told_what_changes_and_nothing_else():
    states, told = KeptStates(KEPT, None), []
    states.join(told.append)
    states.change(KEPT)
    states.change(less := CacheLimits(host=1))
    states.forget_in_memory()
    states.leave(told.append)
    states.change(KEPT)
    states.forget_on_disk()  # there is none
    assert told == [less, ForgetStates()]
