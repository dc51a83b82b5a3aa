"""Call back when files change."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

# Its types name those of trio, which is not there.
from watchfiles import awatch  # pyright: ignore[reportUnknownVariableType]

_QUIET, _PATIENCE = 100, 1600  # milliseconds: changes are told when none has come for so long, or at the latest
_AGAIN = 5.0  # seconds until a place that cannot be watched is tried again


class Watch:
    """Tells of changes in directories, of which some may not be there yet. What is told may be nothing new: look."""

    def __init__(self, places: Callable[[], Iterable[Path]], on_change: Callable[[set[Path]], Awaitable[None]]) -> None:
        """`places` are asked for again after each change and each `refresh`; `on_change` is told which of them have changed."""
        self._places = places
        self._on_change = on_change
        self._moved = asyncio.Event()

    def refresh(self) -> None:
        """There are other places now."""
        self._moved.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._moved.clear()
            wanted = set(self._places())
            watched = {place: _nearest(place) for place in wanted}
            with contextlib.suppress(OSError):
                await self._until_moved(watched)
                continue
            await asyncio.sleep(_AGAIN)  # more watches than the kernel allows, say

    async def _until_moved(self, watched: dict[Path, Path]) -> None:
        directories = set(watched.values())
        if not directories:
            await self._moved.wait()
            return
        changes = awatch(
            *directories, watch_filter=None, debounce=_PATIENCE, step=_QUIET, stop_event=self._moved, recursive=False,
            ignore_permission_denied=True,
        )  # fmt: skip
        async for batch in changes:
            touched = {Path(path) for _, path in batch}
            changed = {
                place
                for place, directory in watched.items()
                if directory in touched or any(path.parent == directory for path in touched)
            }
            if changed:
                await self._on_change(changed)
            if any(_nearest(place) != directory for place, directory in watched.items()):
                return  # one has come into being, or is gone


def _nearest(place: Path) -> Path:
    """The directory itself, or while it is not there, the one in which it or one above it would appear."""
    while not place.is_dir() and place != place.parent:
        place = place.parent
    return place
