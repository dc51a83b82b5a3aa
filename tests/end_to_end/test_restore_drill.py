"""The machine is lost: what was backed up comes back on an empty one, by the commands that a person would give."""

import asyncio
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from tests.end_to_end.conftest import RunningDaemon, Start
from tests.end_to_end.test_residency import complete, make_models

_PLACES = ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME")
_SEEDED: dict[str, Any] = {"seed": 7, "max_tokens": 40, "temperature": 1.0, "top_p": 1}


async def cortexd(home: Path, *arguments: str) -> str:
    """What the command prints, given by somebody whose directories are in `home`."""
    done = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cortexd", *arguments,
        env={**os.environ, **{name: str(home / name) for name in _PLACES}},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    printed, complained = await done.communicate()
    assert done.returncode == 0, complained.decode()
    return printed.decode()


async def shown(daemon: RunningDaemon, home: Path) -> str:
    """But for the port, which the tests choose anew for every daemon."""
    lines = (await cortexd(home, "config", "show", "--host", daemon.url)).splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("port = "))


async def answers(daemon: RunningDaemon) -> list[Any]:
    asked = [await complete(daemon, name, **_SEEDED) for name in ("poet", "goose@1")]
    assert [answer.status_code for answer in asked] == [200, 200], [answer.text for answer in asked]
    return [answer.json()["choices"] for answer in asked]


async def test_a_backup_restored_on_an_empty_machine_gives_the_same_configuration_and_the_same_answers(
    start: Start, tmp_path: Path
):
    models, home, kept = tmp_path / "models", tmp_path / "home", tmp_path / "kept"
    models.mkdir()
    kept.mkdir()
    make_models(models, "goose")
    async with start(models, home) as daemon:
        host = ("--host", daemon.url)
        poet = ('model."goose".aliases=["poet"]', "model.goose.sampling.top_k=50", "lifecycle.keep_alive=10m")
        for assignment in poet:
            await cortexd(home, "config", "set", assignment, "--yes", *host)
        await cortexd(home, "config", "backup", str(kept / "cortexd.db"), *host)
        await cortexd(home, "config", "export", "--bundle", "-o", str(kept / "bundle.jsonl"), *host)
        before, history = await shown(daemon, home), (await daemon.client.get("/admin/snapshots")).json()
        said = await answers(daemon)
    shutil.rmtree(home)
    await cortexd(home, "config", "restore", str(kept / "cortexd.db"))
    async with start(models, home) as daemon:
        assert await shown(daemon, home) == before
        assert (await daemon.client.get("/admin/snapshots")).json() == history
        bundle = await cortexd(home, "config", "export", "--bundle", "--host", daemon.url)
        assert bundle == (kept / "bundle.jsonl").read_text()
        assert await answers(daemon) == said
