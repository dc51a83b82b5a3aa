import asyncio
import contextlib
import itertools
import os
import socket
import sys
import tempfile
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psutil
import pytest
import pytest_asyncio

from tests.checkpoint_files import tiny_state_dict, write_pth
from tests.new_database import new_database

Start = Callable[..., AbstractAsyncContextManager["RunningDaemon"]]
House = tuple["RunningDaemon", Path]  # and its folder of models

# Room for one model that has not been measured yet, whatever has been measured of another.
ONE = {
    "CORTEXD_MEMORY__CPU": "160 MB",
    "CORTEXD_MEMORY__PARKED": "0",
    "CORTEXD_LIFECYCLE__PREDICT": "false",
}
_numbers = itertools.count()


@dataclass
class RunningDaemon:
    """`cortexd serve` as a process of its own."""

    process: asyncio.subprocess.Process
    url: str
    client: httpx.AsyncClient

    async def chat(self, text: str, model: str = "demo", **fields: Any) -> httpx.Response:
        body = {"model": model, "messages": [{"role": "user", "content": text}], **fields}
        return await self.client.post("/v1/chat/completions", json=body)

    async def models(self) -> dict[str, dict[str, Any]]:
        data = (await self.client.get("/v1/models")).json()["data"]
        return {model["id"]: model["cortexd"] for model in data}

    async def state(self, model: str) -> str:
        return (await self.models())[model]["state"]

    async def until(self, model: str, *states: str) -> None:
        async with asyncio.timeout(30):
            while await self.state(model) not in states:
                await pause()

    async def ledger(self) -> dict[str, int]:
        """Bytes of the host that models hold, are about to hold, or have not given back."""
        return (await self.client.get("/admin/memory")).json()["devices"]["cpu"]

    async def journal(self, **query: str) -> list[dict[str, Any]]:
        """Newest first."""
        return (await self.client.get("/admin/journal", params=query)).json()["decisions"]

    async def worker(self, model: str) -> psutil.Process:
        """The process of this model, as soon as it has one."""
        async with asyncio.timeout(20):
            while not (pids := (await self.client.get(f"/admin/models/{model}")).json()["status"]["pids"]):
                await pause()
        return psutil.Process(pids[0])

    def processes(self) -> list[psutil.Process]:
        """The daemon's fork server and workers."""
        return psutil.Process(self.process.pid).children(recursive=True)


async def pause() -> None:
    """Between two looks: whoever looks all the time takes the processor from what he waits for."""
    await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def running_daemon(models: Path, home: Path | None = None, **environment: str) -> AsyncGenerator[RunningDaemon]:
    """`home` holds what it keeps beyond its life; its own, with a new database, and gone with it, unless given."""
    with contextlib.ExitStack() as stack:
        folder = home or _home(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cortexd-"))))
        async with _running(models, {**environment, **_places(folder)}) as daemon:
            yield daemon


def _home(folder: Path) -> Path:
    data = folder / "XDG_DATA_HOME" / "cortexd"
    data.mkdir(mode=0o700, parents=True)
    (data / "cortexd.db").write_bytes(new_database())
    return folder


def _places(home: Path) -> dict[str, str]:
    """Where a daemon keeps things, away from those of whoever runs the tests."""
    return {name: str(home / name) for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME")}


@contextlib.asynccontextmanager
async def _running(models: Path, environment: dict[str, str]) -> AsyncGenerator[RunningDaemon]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cortexd", "serve", "--port", str(port), "--models", str(models),
        env={**os.environ, **environment}, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    async with asyncio.timeout(60):
        while b"listening" not in (line := await process.stderr.readline()):
            assert line, "the daemon has ended"
    drain = asyncio.create_task(process.stderr.read())
    url = f"http://127.0.0.1:{port}"
    try:
        async with httpx.AsyncClient(base_url=url, timeout=60.0, trust_env=False) as client:
            yield RunningDaemon(process, url, client)
    finally:
        if process.returncode is None:
            process.terminate()
        async with asyncio.timeout(60):
            await process.wait()
            await drain


@pytest.fixture
def start() -> Start:
    return running_daemon


class Guest(NamedTuple):
    """A daemon that other tests use too, as each has to import torch; and two models of this test, new to the daemon."""

    daemon: RunningDaemon
    goose: str
    swan: str


@contextlib.asynccontextmanager
async def _guest(daemon: RunningDaemon, folder: Path) -> AsyncGenerator[Guest]:
    """Nothing of its models is left when the block ends."""
    number = next(_numbers)
    names = f"goose{number}", f"swan{number}"
    files = [folder / f"{name}.pth" for name in names]
    for seed, file in enumerate(files):
        write_pth(file, tiny_state_dict(seed, layers=2, vocabulary=257))
    yield Guest(daemon, *names)
    for name, file in zip(names, files, strict=True):
        await daemon.client.post(f"/admin/models/{name}/unload", json={"force": True, "wait": True})
        await daemon.until(name, "cold", "failed")
        file.unlink()


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def roomy_house(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[House]:
    """With memory for all. What one test asked for says nothing of what the next will."""
    folder = tmp_path_factory.mktemp("models")
    async with running_daemon(folder, CORTEXD_LIFECYCLE__PREDICT="false") as daemon:
        yield daemon, folder


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def narrow_house(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[House]:
    """With memory for one model."""
    folder = tmp_path_factory.mktemp("models")
    async with running_daemon(folder, **ONE) as daemon:
        yield daemon, folder


@pytest_asyncio.fixture(loop_scope="package")
async def roomy(roomy_house: House) -> AsyncGenerator[Guest]:
    async with _guest(*roomy_house) as guest:
        yield guest


@pytest_asyncio.fixture(loop_scope="package")
async def narrow(narrow_house: House) -> AsyncGenerator[Guest]:
    async with _guest(*narrow_house) as guest:
        yield guest
