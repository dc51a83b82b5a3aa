"""Parked: the process stays and answers, the memory goes, and the next answer comes fast."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from cortexd.engines.fork_server import ForkServer
from cortexd.engines.protocol import LoadProgress
from cortexd.engines.rwkv import RwkvEngine
from cortexd.errors import EngineDied, LoadFailed
from tests.checkpoint_files import tiny_state_dict, write_pth
from tests.engines.asking import Host, ask, collect, spec_of

pytestmark = pytest.mark.asyncio(loop_scope="package")


async def start(engine: RwkvEngine) -> RwkvEngine:
    await engine.start(lambda progress: None)
    return engine


def maps(pid: int, file: str) -> bool:
    return file in Path(f"/proc/{pid}/maps").read_text()


async def test_a_parked_engine_answers_pings_and_resumes_to_the_same_text(
    fork_server: ForkServer, checkpoint: Path, tmp_path: Path
):
    engine = await start(RwkvEngine(spec_of(checkpoint), Host(fork_server, tmp_path)))
    (pid,) = engine.pids()
    before = await collect(engine, ask("Hello", 20))
    await engine.park()
    await engine.ping()
    assert not maps(pid, str(tmp_path))
    assert not maps(pid, str(checkpoint))
    told: list[LoadProgress] = []
    facts = await engine.resume(told.append)
    assert facts.parks
    assert told[-1] == LoadProgress("reading", 1.0)
    assert engine.pids() == [pid]
    assert (await collect(engine, ask("Hello", 20)))[0] == before[0]
    await engine.stop(5.0)
    assert engine.pids() == []


async def test_memory_comes_back_at_once_where_weights_had_to_be_converted(fork_server: ForkServer, tmp_path: Path):
    def own(pid: int) -> int:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Private_Dirty"))

    write_pth(tmp_path / "goose.pth", tiny_state_dict(1, layers=12, heads=6, vocabulary=257))
    engine = await start(RwkvEngine(spec_of(tmp_path / "goose.pth", strategy="cpu bf16"), Host(fork_server)))
    loaded = own(engine.pid)
    await engine.park()
    assert loaded - own(engine.pid) > 30_000_000
    await engine.stop(5.0)


async def test_a_checkpoint_that_is_gone_fails_the_resume_with_one_sentence(fork_server: ForkServer, tmp_path: Path):
    path = tmp_path / "goose.pth"
    write_pth(path, tiny_state_dict(1, vocabulary=257))
    engine = await start(RwkvEngine(spec_of(path), Host(fork_server)))
    await engine.park()
    path.unlink()
    with pytest.raises(LoadFailed, match=r"goose\.pth has changed on the disk.*\.$"):
        await engine.resume(lambda progress: None)
    await engine.stop(5.0)


async def test_a_parked_worker_that_was_killed_fails_the_resume(fork_server: ForkServer, checkpoint: Path):
    engine = await start(RwkvEngine(spec_of(checkpoint), Host(fork_server)))
    await engine.park()
    os.kill(engine.pid, signal.SIGKILL)
    assert await engine.ended() == "killed by SIGKILL"
    assert engine.pids() == []
    with pytest.raises(LoadFailed, match="SIGKILL"):
        await engine.resume(lambda progress: None)
    with pytest.raises(EngineDied):
        await engine.park()
    await engine.stop(1.0)


async def test_a_worker_killed_while_it_parks_ends_the_wait(fork_server: ForkServer, checkpoint: Path):
    engine = await start(RwkvEngine(spec_of(checkpoint), Host(fork_server)))
    os.kill(engine.pid, signal.SIGSTOP)
    parking = asyncio.ensure_future(engine.park())
    await asyncio.wait([parking], timeout=0.01)
    os.kill(engine.pid, signal.SIGKILL)
    with pytest.raises(EngineDied):
        await parking
    await engine.stop(1.0)


async def test_a_second_worker_maps_what_the_first_has_kept(fork_server: ForkServer, checkpoint: Path, tmp_path: Path):
    spec = spec_of(checkpoint)
    first = await start(RwkvEngine(spec, Host(fork_server, tmp_path)))
    while not list(tmp_path.glob("*.weights")):  # it is brought to the disk in the background
        await first.ping()
    second = await start(RwkvEngine(spec, Host(fork_server, tmp_path)))
    (kept,) = tmp_path.iterdir()
    assert maps(first.pid, str(kept))
    assert maps(second.pid, str(kept))
    assert (await collect(second, ask("Hello", 20)))[0] == (await collect(first, ask("Hello", 20)))[0]
    await asyncio.gather(first.stop(5.0), second.stop(5.0))
