"""A writer of snapshots is killed at random, again and again: `python -m tests.store.soak --kills 1000`."""

import argparse
import asyncio
import json
import os
import random
import signal
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.store.histories import put, snapshots_at

KEEP = 50  # versions
CHANGES = 8  # before a writer is killed, at most
DELAY = 0.02  # seconds that it lives on, at most


@dataclass
class Outcome:
    kills: int = 0
    acknowledged: int = 0
    problems: list[str] = field(default_factory=list[str])


def soak(kills: int, seed: int) -> Outcome:
    """No version that was acknowledged may be lost, none half there, and the chain must hold after each kill."""
    outcome, dice = Outcome(), random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="cortexd-soak-") as folder:
        path = Path(folder) / "db"
        while outcome.kills < kills and not outcome.problems:
            acknowledged = _killed_writer(path, dice)
            outcome.kills += 1
            outcome.acknowledged += len(acknowledged)
            outcome.problems = asyncio.run(_problems(path, acknowledged))
    return outcome


def _killed_writer(path: Path, dice: random.Random) -> dict[int, str]:
    """The versions that a writer acknowledged before it was killed, with their chain hashes."""
    hear, tell = os.pipe()
    seed, changes, delay = dice.random(), dice.randrange(CHANGES), dice.uniform(0, DELAY)
    child = os.fork()
    if child == 0:
        os.close(hear)
        try:
            asyncio.run(_write_for_ever(path, tell, random.Random(seed)))
        finally:
            os._exit(1)
    os.close(tell)
    with os.fdopen(hear) as lines:
        told = [lines.readline() for _ in range(changes)]
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
        told += lines.readlines()
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL, "a writer ends when it is killed, not before"
    versions = (line.split() for line in told if line.endswith("\n"))
    return {int(version): hash for version, hash in versions}


async def _write_for_ever(path: Path, tell: int, dice: random.Random) -> None:
    async with snapshots_at(path, keep=KEEP) as snapshots:
        while True:
            head = await snapshots.head()
            within = dice.choice((None, None, -1.0))  # over as soon as it begins
            if head is not None and dice.random() < 0.2:
                old = dice.choice(await snapshots.history(limit=KEEP))
                snapshot = await snapshots.rollback(old.version, "ann", "", expected=None, confirm_within=within)
            elif head is not None and dice.random() < 0.2:
                snapshot = await snapshots.revert(time.time()) or head.current
            else:
                value = "x" * dice.randrange(20_000) + str(dice.random())
                expected = head.current.version if head else 0
                snapshot = await put(snapshots, value, expected, confirm_within=within)
            os.write(tell, f"{snapshot.version} {snapshot.chain_hash}\n".encode())


async def _problems(path: Path, acknowledged: dict[int, str]) -> list[str]:
    async with snapshots_at(path, keep=KEEP) as snapshots:
        head, fault = await snapshots.head(), await snapshots.verify()
        kept = {snapshot.version: snapshot.chain_hash for snapshot in await snapshots.history(limit=10_000)}
        aside, notice = snapshots._database.set_aside, snapshots.notice
    newest = head.current.version if head else 0
    lost = [
        version
        for version, hash in acknowledged.items()
        if version > newest or (version > newest - KEEP and kept.get(version) != hash)
    ]
    found = {"lost": lost, "fault": fault, "set aside": aside, "notice": notice}
    return [f"{what}: {found}" for what, found in found.items() if found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    outcome = soak(asked.kills, asked.seed)
    print(json.dumps(asdict(outcome)))
    sys.exit(bool(outcome.problems))


if __name__ == "__main__":
    main()
