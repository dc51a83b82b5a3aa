import asyncio
import contextlib
import os
import socket
import sys
import tempfile
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.new_database import new_database

Start = Callable[..., AbstractAsyncContextManager["RunningDaemon"]]


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
