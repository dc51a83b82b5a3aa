"""The real daemon as a process."""

import asyncio
import contextlib
import os
import socket
import sys
import tempfile
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from tests.bench import machine

_LOOK = 0.25  # seconds between two looks at what it has computed
_IDLE = 0.1  # of a core; what a daemon does that has nothing to do is far less


class DaemonEnded(Exception):
    """It ended before it was ready."""


@dataclass(frozen=True)
class RunningDaemon:
    client: httpx.AsyncClient
    pid: int
    home: Path

    async def until_idle(self) -> None:
        """Until neither it nor its workers compute: what was to be written or read in the background is done."""
        before = machine.processor_time_of(self.pid)
        while True:
            await asyncio.sleep(_LOOK)
            now = machine.processor_time_of(self.pid)
            if now - before < _IDLE * _LOOK:
                return
            before = now

    async def unload(self, model: str) -> None:
        """Until its process is gone, and with it what that had mapped."""
        pids = (await self.client.get(f"/admin/models/{model}")).json()["status"]["pids"]
        workers = [process for process in machine.family(self.pid) if process.pid in pids]
        response = await self.client.post(f"/admin/models/{model}/unload", json={"wait": True})
        response.raise_for_status()
        await asyncio.to_thread(psutil.wait_procs, workers)


def strategies(shape: str, kinds: list[str]) -> str:
    """A configuration that serves one checkpoint under the names `shape-kind`, computed in each of `kinds`."""
    table = '[[model]]\nname = "{0}-{1}"\npath = "{0}.pth"\nstrategy = "cpu {1}"\n'
    return "\n".join(table.format(shape, kind) for kind in kinds)


@contextlib.asynccontextmanager
async def daemon(
    models: Path, home: Path | None = None, configuration: str = "", **environment: str
) -> AsyncGenerator[RunningDaemon]:
    """`cortexd serve` with these models, on a free port, until the block ends; raises DaemonEnded where it does not start.

    What it keeps goes into `home`; without one into a new folder on the disk of the models, which is gone at the end.
    """
    with contextlib.ExitStack() as stack:
        if home is None:
            home = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=models.resolve(), prefix="home-")))
        if configuration:
            file = home / "XDG_CONFIG_HOME" / "cortexd" / "cortexd.toml"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(configuration)
        async with _running(models, home, environment) as running:
            yield running


@contextlib.asynccontextmanager
async def _running(models: Path, home: Path, environment: Mapping[str, str]) -> AsyncGenerator[RunningDaemon]:
    places = {name: str(home / name) for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME")}
    usual = {
        "CORTEXD_LIFECYCLE__KEEP_ALIVE": "-1",
        "CORTEXD_LIFECYCLE__RESTORE": "false",
        "CORTEXD_LIFECYCLE__PREDICT": "false",
        "CORTEXD_ENGINE__THREADS": str(machine.cores()),
    }
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cortexd", "serve", "--port", str(port), "--models", str(models), "--log-level", "warning",
        env={**os.environ, **places, **usual, **environment},
    )  # fmt: skip
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=None, trust_env=False) as client:
            await until_ready(client, process)
            yield RunningDaemon(client, process.pid, home)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def until_ready(client: httpx.AsyncClient, process: asyncio.subprocess.Process) -> None:
    """Raises DaemonEnded."""
    while True:
        if process.returncode is not None:
            raise DaemonEnded(f"cortexd serve ended with status {process.returncode}; it says above why.")
        with contextlib.suppress(httpx.TransportError):
            if (await client.get("/readyz")).status_code == httpx.codes.OK:
                return
        await asyncio.sleep(0.02)
