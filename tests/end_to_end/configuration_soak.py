"""The daemon is killed at random while clients change its configuration.

`python -m tests.end_to_end.configuration_soak --kills 1000`
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import uvloop  # pyright: ignore[reportUnusedImport]  # noqa: F401 - imported before the forks

from cortexd.cli import main as program
from cortexd.cli import serve, server  # pyright: ignore[reportUnusedImport]  # noqa: F401 - imported before the forks
from tests.end_to_end.configuration_ledger import Ledger, patch_of

CLIENTS = 3
ANSWERED = 4  # changes before a daemon is killed, at most
LIVES = 0.15  # seconds that it lives on, at most
STARTS = 0.4  # seconds within which a daemon may be killed that has not been waited for
KILLED_AT_START = 0.2  # of those that are forked
WHOLE = 20  # one in so many daemons is not forked
_RECENT = 50  # versions that are gone back to
_PATIENCE = 30.0  # seconds until an answer, or an undoing that is due
_PLACES = ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME")
_QUIET = ("--port", "0", "--set", "models.embedded=false")


@dataclass
class Outcome:
    kills: int = 0
    at_start: int = 0  # of them
    ended: Counter[str] = field(default_factory=Counter[str])  # writes, by how they ended
    reverted: int = 0
    problems: list[str] = field(default_factory=list[str])


@dataclass
class Daemon:
    pid: int
    log: Any  # lines, as they are written
    since: float

    def kill(self) -> None:
        """With its fork server, which would else go on importing for a second."""
        with contextlib.suppress(ProcessLookupError):  # it has no group of its own yet
            os.killpg(self.pid, signal.SIGKILL)
        os.kill(self.pid, signal.SIGKILL)

    def url(self) -> str:
        """Where it listens, once it does; raises RuntimeError where it says that anything is wrong."""
        said: list[str] = []
        for line in self.log:
            said.append(line)
            if not line.startswith("{"):
                break
            if (event := json.loads(line))["event"] == "listening":
                return event["address"]
        raise RuntimeError("".join([*said, *self.log]))


@contextlib.contextmanager
def started(home: Path, *, whole: bool) -> Generator[Daemon]:
    """`cortexd serve` as a process of its own, as everybody starts it or, not `whole`, forked from this one, which has
    imported it already.

    It is dead when the block ends; what it said until then raises RuntimeError if it is no ordinary log.
    """
    hear, tell = os.pipe()
    since = time.time()
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            os.dup2(tell, 2)
            os.environ.update({name: str(home / name) for name in _PLACES})
            if whole:
                os.execv(sys.executable, [sys.executable, "-m", "cortexd", "serve", *_QUIET])
            program.run(["serve", *_QUIET])
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(tell)
    with os.fdopen(hear) as log:
        daemon = Daemon(pid, log, since)
        try:
            yield daemon
        finally:
            daemon.kill()
            _, status = os.waitpid(pid, 0)
        said = [line for line in log if not line.startswith("{")]
    if not os.WIFSIGNALED(status) or said:
        raise RuntimeError("".join(said) or "it had ended before it was killed")


def soak(kills: int, seed: int) -> Outcome:
    """No change that was acknowledged may be lost, none half made, and every deadline must be kept, whenever it is killed."""
    outcome, dice, ledger = Outcome(), random.Random(seed), Ledger()
    with tempfile.TemporaryDirectory(prefix="cortexd-soak-") as folder:
        try:
            while outcome.kills < kills and not ledger.problems:
                whole = outcome.kills % WHOLE == WHOLE - 1
                with started(Path(folder), whole=whole) as daemon:
                    if not whole and dice.random() < KILLED_AT_START:
                        time.sleep(dice.uniform(0, STARTS))
                        outcome.at_start += 1
                    else:
                        asyncio.run(_life(daemon, ledger, dice))
                outcome.kills += 1
            with started(Path(folder), whole=False) as daemon:
                asyncio.run(_last_life(daemon, ledger))
        except (RuntimeError, httpx.HTTPError, TimeoutError) as error:
            ledger.problems.append(f"{type(error).__name__}: {error}")
    outcome.ended, outcome.reverted, outcome.problems = ledger.ended, ledger.reverted, ledger.problems
    return outcome


async def _life(daemon: Daemon, ledger: Ledger, dice: random.Random) -> None:
    """Look at what is left of the life before, then write until killed."""
    async with _client(daemon) as client:
        due = await ledger.check(client, daemon.since)
        if due is not None and due < time.time() + 2 * LIVES:
            await ledger.until_reverted(client, _PATIENCE)
            await ledger.check(client, daemon.since)
        answers = asyncio.Semaphore(0)
        crowd = [asyncio.create_task(_write(client, ledger, dice, answers)) for _ in range(CLIENTS)]
        for _ in range(dice.randrange(ANSWERED + 1)):
            await answers.acquire()
        await asyncio.sleep(dice.uniform(0, LIVES))
        daemon.kill()
        await asyncio.gather(*crowd)


async def _last_life(daemon: Daemon, ledger: Ledger) -> None:
    async with _client(daemon) as client:
        await ledger.check(client, daemon.since)
        await ledger.check_all(client)


def _client(daemon: Daemon) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=daemon.url(), timeout=_PATIENCE, trust_env=False)


async def _write(client: httpx.AsyncClient, ledger: Ledger, dice: random.Random, answers: asyncio.Semaphore) -> None:
    """One change after another, until the daemon is gone."""
    with contextlib.suppress(httpx.TransportError):
        while True:
            if dice.random() < 0.15:
                await _confirm(client, ledger)
            else:
                await _change(client, ledger, dice)
            answers.release()


async def _confirm(client: httpx.AsyncClient, ledger: Ledger) -> None:
    version = ledger.newest
    ledger.confirming(version)
    ledger.confirmed(version, await client.post(f"/admin/snapshots/{version}/confirm"))


async def _change(client: httpx.AsyncClient, ledger: Ledger, dice: random.Random) -> None:
    match, expected = "*", None
    if dice.random() < 0.3:
        match = (await client.get("/admin/config")).headers["etag"]
        expected = int(match[2:].partition("-")[0])
    within = round(dice.uniform(0.2, 2.0), 3) if dice.random() < 0.25 else None
    target = dice.choice(ledger.known()[-_RECENT:]) if dice.random() < 0.2 else None
    write = ledger.sending(expected, within, target)
    query = {"reason": write.reason} | ({} if within is None else {"confirm_within": str(within)})
    headers = {"if-match": match}
    if target is None:
        body = patch_of(write.number, aliases=dice.randrange(300))
        answer = await client.patch("/admin/config", json=body, params=query, headers=headers)
    else:
        answer = await client.post(f"/admin/snapshots/{target}/rollback", params=query, headers=headers)
    ledger.answered(write, answer)


def main() -> None:
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    outcome = soak(asked.kills, asked.seed)
    writes = f"writes ended: {dict(outcome.ended)}; {outcome.reverted} times undone as they were not confirmed"
    print(f"{outcome.kills} daemons killed, {outcome.at_start} of them while they started; {writes}")
    print("\n".join(outcome.problems) or "no acknowledged change is lost, none is half made, every deadline was kept")
    sys.exit(bool(outcome.problems))


if __name__ == "__main__":
    main()
