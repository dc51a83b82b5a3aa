import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.store.histories import put, snapshots_at, values


def told_by(*command: str, before: tuple[str, ...] = ()) -> dict[str, Any]:
    """What a script in a process of its own tells as JSON."""
    whole = [*before, sys.executable, "-W", "error", "-m", *command]
    done = subprocess.run(whole, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    return json.loads(done.stdout)


def test_writers_killed_at_any_time_lose_nothing_that_was_acknowledged() -> None:
    told = told_by("tests.store.soak", "--kills", "50")
    assert (told["kills"], told["problems"]) == (50, [])
    assert told["acknowledged"] >= 50


@pytest.mark.parametrize("means", ["limit", "tmpfs"])
def test_a_full_disk_refuses_the_change_and_loses_none_before_it(tmp_path: Path, means: str) -> None:
    before = ()
    if means == "tmpfs":
        before = ("unshare", "--map-root-user", "--mount")
        if subprocess.run([*before, "true"], capture_output=True).returncode:
            pytest.skip("this machine lets nobody mount")
    told = told_by("tests.store.snapshot_faults", means, str(tmp_path), before=before)
    assert told["error"] == "StoreFull"
    last = told["acknowledged"][-1]
    assert last > 5
    assert (told["in_force"], told["after"]) == (last, last + 1)
    assert told["kept"] == [*told["acknowledged"], last + 1]
    assert told["fault"] is None
    assert told["copied"]


@pytest.fixture
def strace() -> str:
    if (found := shutil.which("strace")) is None:
        pytest.skip("there is no strace")
    if subprocess.run([found, "-o", "/dev/null", "true"], capture_output=True).returncode:
        pytest.skip("this machine lets nobody trace")
    return found


@pytest.mark.parametrize("call", ["pwrite64", "fdatasync", "fsync"])
async def test_a_system_call_that_fails_is_told_and_loses_nothing_acknowledged(
    tmp_path: Path, strace: str, call: str
) -> None:
    path = tmp_path / "db"
    async with snapshots_at(path) as snapshots:
        await put(snapshots, "first")
    errors: list[str] = []
    for nth in (3, 9):  # among those that matter: SQLite lets the sync of a directory fail
        fault = f"inject={call}:error=EIO:when={nth}"
        injected = (strace, "-f", "-o", "/dev/null", "-e", f"trace={call}", "-e", fault)
        told = told_by("tests.store.snapshot_faults", "failing calls", str(path), before=injected)
        errors += told["errors"]
        async with snapshots_at(path) as snapshots:
            assert await snapshots.verify() is None
            assert snapshots.notice is None
            kept = await values(snapshots)
        assert {version: kept.get(int(version)) for version in told["acknowledged"]} == told["acknowledged"]
    assert errors
