"""A writer of snapshots whose disk fails it: on a full disk, or under `strace`, which has system calls fail. Tells what
happened as JSON."""

import asyncio
import json
import resource
import subprocess
import sys
from pathlib import Path

from cortexd.errors import StoreFailed
from tests.store.full_disk import ROOM, limit
from tests.store.histories import put, snapshots_at

CHANGES = 6  # of a writer whose system calls fail


async def fill(means: str, directory: Path) -> None:
    """Until there is no room; goes on when there is."""
    ballast = directory / "ballast"
    if means == "tmpfs":
        ballast.write_bytes(bytes(ROOM))
    async with snapshots_at(directory / "db") as snapshots:
        if means == "limit":
            limit(ROOM)
        acknowledged: list[int] = []
        error = None
        while error is None:
            try:
                acknowledged.append((await put(snapshots, f"{len(acknowledged)} " + "x" * 10_000)).version)
            except StoreFailed as full:
                error = full
        head = await snapshots.head()
        in_force = head.current.version if head else 0
        if means == "limit":
            limit(resource.RLIM_INFINITY)
        else:
            ballast.unlink()
        after = (await put(snapshots, "there is room again")).version
        copied = snapshots.copy_failure is None
    async with snapshots_at(directory / "db") as snapshots:
        kept = [snapshot.version for snapshot in await snapshots.history(limit=1000)][::-1]
        fault = await snapshots.verify()
    told = {"error": type(error).__name__, "acknowledged": acknowledged, "in_force": in_force, "after": after}
    print(json.dumps(told | {"kept": kept, "fault": fault, "copied": copied}))


async def change(path: Path) -> None:
    """Goes on after whatever fails; `acknowledged` is by version what was put."""
    acknowledged: dict[int, int] = {}
    errors: list[str] = []
    try:
        async with snapshots_at(path) as snapshots:
            for number in range(CHANGES):
                try:
                    acknowledged[(await put(snapshots, number)).version] = number
                except StoreFailed as error:
                    errors.append(type(error).__name__)
                if snapshots.copy_failure is not None:
                    errors.append("copy")
    except StoreFailed as error:
        errors.append(f"start: {type(error).__name__}")
    print(json.dumps({"acknowledged": acknowledged, "errors": errors}))


def main(means: str, place: Path) -> None:
    if means == "tmpfs":
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={2 * ROOM}", "tmpfs", place], check=True)
    asyncio.run(change(place) if means == "failing calls" else fill(means, place))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
