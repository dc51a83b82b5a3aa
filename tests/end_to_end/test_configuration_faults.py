"""What disks do to a configuration, and what the real program makes of it: it serves, says so, and loses nothing."""

import asyncio
import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from cortexd.config import settings_from_document
from cortexd.store.file import connect
from tests.end_to_end.conftest import RunningDaemon, pause
from tests.store.histories import by, snapshots_at

_ROOM = 768 << 10  # bytes of a small disk
_MOUNT = ("unshare", "--map-root-user", "--mount", "sh", "-ec")
_SMALL_DISK = f'mount -t tmpfs -o size={_ROOM} tmpfs "$0"; exec "$@"'
_READ_ONLY = 'mount --bind "$0" "$0"; mount -o remount,bind,ro "$0"; exec "$@"'


@dataclass
class Watched(RunningDaemon):
    """One whose log is read."""

    log: list[str]

    async def change(self, max_wait: int) -> httpx.Response:
        return await self.client.patch(
            "/admin/config", json={"lifecycle": {"max_wait": max_wait}}, headers={"if-match": "*"}
        )

    async def max_wait(self) -> float:
        return (await self.in_force())["document"]["lifecycle"]["max_wait"]

    async def in_force(self) -> dict[str, Any]:
        return (await self.client.get("/admin/config")).json()

    async def answers(self) -> bool:
        answer = await self.chat("Hello", max_tokens=2)
        return answer.status_code == 200 and bool(answer.json()["choices"])

    async def store(self) -> str:
        return (await self.client.get("/readyz")).json()["checks"]["store"]

    async def is_sound(self) -> bool:
        return (await self.client.get("/admin/snapshots/verify")).json() == {"fault": None}

    def said(self, *words: str) -> bool:
        return any(all(word in line for word in words) for line in self.log)


@contextlib.asynccontextmanager
async def watched(home: Path, *before: str) -> AsyncGenerator[Watched]:
    """`before` is a command that runs another one, in a process of its own."""
    places = {name: str(home / name) for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME")}
    command = (*before, sys.executable, "-m", "cortexd", "serve", "--port", "0")
    process = await asyncio.create_subprocess_exec(
        *command, env={**os.environ, **places}, stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    log: list[str] = []
    try:
        async with asyncio.timeout(60):
            while not log or '"listening"' not in log[-1]:
                line = (await process.stderr.readline()).decode()
                assert line, "".join(log)
                log.append(line)
        drain = asyncio.create_task(_drain(process.stderr, log))
        url = json.loads(log[-1])["address"]
        async with httpx.AsyncClient(base_url=url, timeout=60.0, trust_env=False) as client:
            yield Watched(process, url, client, log)
    finally:
        if process.returncode is None:
            process.terminate()
        async with asyncio.timeout(60):
            await process.wait()
    await drain


async def _drain(lines: asyncio.StreamReader, log: list[str]) -> None:
    async for line in lines:
        log.append(line.decode())


def database_in(home: Path) -> Path:
    return home / "XDG_DATA_HOME" / "cortexd" / "cortexd.db"


async def written(home: Path) -> Path:
    """The database of a daemon that has had three configurations: version `n` says that max_wait is 10 + `n`."""
    path = database_in(home)
    async with snapshots_at(path) as snapshots:
        for number in (11, 12, 13):
            settings = settings_from_document({"lifecycle": {"max_wait": number}})
            await snapshots.put(msgspec.to_builtins(settings), by("ann"), expected=None)
    return path


def can_mount() -> bool:
    return (
        shutil.which("unshare") is not None
        and not subprocess.run([*_MOUNT[:3], "true"], capture_output=True).returncode
    )


@pytest.fixture
def strace() -> str:
    if (found := shutil.which("strace")) is None:
        pytest.skip("there is no strace")
    if subprocess.run([found, "-o", "/dev/null", "true"], capture_output=True).returncode:
        pytest.skip("this machine lets nobody trace")
    return found


def fill(daemon: Watched, path: Path) -> Callable[[], None]:
    """Let there be no room any more for the database; returns what makes room again."""
    pid = daemon.process.pid
    if can_mount():  # the disk is seen by the daemon alone
        ballast = Path(f"/proc/{pid}/root{path.parent}/ballast")
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
        return ballast.unlink
    unlimited = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (path.stat().st_size, unlimited[1]))

    def free() -> None:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, unlimited)

    return free


async def test_a_full_disk_refuses_the_change_and_nothing_else(tmp_path: Path):
    path = database_in(tmp_path)
    path.parent.mkdir(parents=True)
    before = (*_MOUNT, _SMALL_DISK, str(path.parent)) if can_mount() else ()
    async with watched(tmp_path, *before) as daemon:
        assert await daemon.answers()
        free = fill(daemon, path)
        kept = 30
        while (refused := await daemon.change(kept + 1)).is_success:
            kept += 1
            assert kept < 200
        assert refused.status_code == 507
        message = refused.json()["error"]["message"]
        assert message.startswith("There is no room to write")
        assert "\n" not in message
        assert await daemon.max_wait() == kept
        assert await daemon.answers()
        free()
        assert (await daemon.change(7)).json()["version"] == kept - 28
        assert await daemon.max_wait() == 7
        assert await daemon.is_sound()
        rows = (await daemon.client.get("/admin/snapshots")).json()["snapshots"]
        assert [row["version"] for row in rows] == [*range(kept - 28, 0, -1)]


async def test_a_disk_that_fails_refuses_the_change_and_nothing_else(tmp_path: Path, strace: str):
    async with watched(tmp_path) as daemon:
        assert await daemon.answers()
        assert (await daemon.change(31)).is_success
        fault = "inject=fsync,fdatasync:error=EIO"
        tracer = await asyncio.create_subprocess_exec(
            strace, "-f", "-p", str(daemon.process.pid), "-o", "/dev/null", "-e", "trace=fsync,fdatasync", "-e", fault,
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert tracer.stderr is not None
        if b"attached" not in await tracer.stderr.readline():
            pytest.skip("this machine lets nobody trace what runs already")
        refused = await daemon.change(32)
        assert refused.status_code == 503
        message = refused.json()["error"]["message"]
        assert message.startswith("The database")
        assert "\n" not in message
        assert await daemon.max_wait() == 31
        assert await daemon.answers()
        tracer.terminate()
        await tracer.communicate()
        assert (await daemon.change(33)).json()["version"] == 3
        assert await daemon.is_sound()


def flip(path: Path, where: bytes) -> None:
    """One bit of the last byte of the only place where this stands."""
    content = path.read_bytes()
    assert content.count(where) == 1
    flip_at(path, content.index(where) + len(where) - 1)


def flip_at(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 4
    path.write_bytes(content)


async def test_damaged_versions_are_told_and_the_copy_of_the_head_is_in_force(tmp_path: Path):
    path = await written(tmp_path)
    flip(path, b'"max_wait":12')
    flip(path, b'"max_wait":13')
    async with watched(tmp_path) as daemon:
        assert daemon.said("Version 3 has another content than was written. Its copy is sound, and is in force")
        found = await daemon.in_force()
        assert (found["version"], found["document"]["lifecycle"]["max_wait"]) == (4, 13)
        command = (sys.executable, "-m", "cortexd", "config", "verify", "--host", daemon.url)
        verify = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        said, _ = await verify.communicate()
        assert (verify.returncode, said.decode()) == (1, "Version 2 has another content than was written.\n")
        assert (await daemon.change(14)).json()["version"] == 5
        back = await daemon.client.post("/admin/snapshots/2/rollback", headers={"if-match": "*"})
        assert (back.status_code, back.json()["error"]["message"]) == (
            503, "Version 2 has another content than was written.",
        )  # fmt: skip


async def test_a_damaged_journal_is_found_and_the_copy_of_the_head_is_in_force(tmp_path: Path):
    path = await written(tmp_path)
    half_written(path)
    flip_at(path.with_name(path.name + "-journal"), 520)  # in the first page that it puts back
    async with watched(tmp_path) as daemon:
        assert daemon.said("the database was damaged; it is now", "a new one begins")
        assert daemon.said("version 3 is restored from its copy")
        assert await daemon.max_wait() == 13
        assert await daemon.store() == "ok"


def half_written(path: Path) -> None:
    """As a writer leaves it that is killed in the middle of a transaction."""
    journal = path.with_name(path.name + "-journal")
    with contextlib.closing(connect(path)) as connection:
        for command in ("PRAGMA cache_size=1", "PRAGMA cache_spill=1", "BEGIN IMMEDIATE"):
            connection.execute(command)
        for _ in range(400):
            connection.execute("INSERT INTO usage (at, model, waited, service) VALUES (1, ?, 1, 1)", ("x" * 500,))
        files = {file: file.read_bytes() for file in (path, journal)}
        connection.execute("ROLLBACK")
    for file, content in files.items():
        file.write_bytes(content)


async def test_a_database_of_garbage_is_set_aside_and_the_copy_of_the_head_is_in_force(tmp_path: Path):
    path = await written(tmp_path)
    path.write_bytes(b"garbage" * 10_000)
    async with watched(tmp_path) as daemon:
        assert daemon.said("the database was damaged; it is now", "a new one begins")
        assert daemon.said("version 3 is restored from its copy")
        (aside,) = [file for file in path.parent.glob("*.damaged-*") if not file.name.endswith("-journal")]
        assert aside.read_bytes() == b"garbage" * 10_000
        assert await daemon.max_wait() == 13
        assert (await daemon.change(14)).json()["version"] == 4
        assert await daemon.is_sound()


async def test_a_database_on_a_read_only_disk_is_told_and_what_was_in_force_is(tmp_path: Path):
    if not can_mount():
        pytest.skip("this machine lets nobody mount")
    path = await written(tmp_path)
    async with watched(tmp_path, *_MOUNT, _READ_ONLY, str(path.parent)) as daemon:
        assert daemon.said("nothing is kept:", str(path.parent))
        assert "Read-only" in await daemon.store()
        assert await daemon.max_wait() == 13
        refused = await daemon.change(14)
        assert refused.status_code == 503
        assert "Read-only" in refused.json()["error"]["message"]
        assert await daemon.max_wait() == 13


async def test_a_database_that_is_deleted_under_the_daemon_is_told(tmp_path: Path):
    async with watched(tmp_path) as daemon:
        database_in(tmp_path).unlink()
        assert (await daemon.change(14)).status_code == 503
        assert await daemon.max_wait() == 30
        async with asyncio.timeout(30):
            while "has been moved, deleted or replaced; restart cortexd." not in await daemon.store():
                await pause()
        assert (await daemon.client.get("/v1/models")).is_success
