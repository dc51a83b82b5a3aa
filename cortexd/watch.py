"""Call back when files change."""

import asyncio
import contextlib
import os
import stat
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

# Its types name those of trio, which is not there.
from watchfiles import Change, awatch  # pyright: ignore[reportUnknownVariableType]

_QUIET, _PATIENCE = 100, 1600  # milliseconds: events are heard when none has come for so long, or at the latest
_AGAIN = 5.0  # seconds until what cannot be watched is tried again

# Seconds until a look that no event has asked for. Of some changes none tells: on a network's disk, of a directory whose
# grandparent is moved, and when more happened at once than the kernel had room to note.
_UNASKED = 30.0

_Identity = tuple[int, int]  # device and inode: what the kernel watches, whatever its name becomes


class Sight(NamedTuple):
    """What a look found in a place."""

    real: str  # its path without links
    directory: bool
    marks: tuple[int, ...]  # differ when it has changed; empty where nothing is


class Watch:
    """Tells of changes in directories at once, and of files when they are written no more. Some of them may not be there yet,
    be replaced, or be links. What is told may be nothing new: look.
    """

    def __init__(
        self,
        places: Callable[[], Iterable[Path]],
        on_change: Callable[[set[Path]], Awaitable[None]],
        *,
        still_s: float = 1.5,
    ) -> None:
        """`places` are asked for again after each event and each `refresh`; `on_change` is told which of them have changed: all,
        when a watch begins. A file is told of when it has not changed for `still_s` seconds.
        """
        self._places = places
        self._on_change = on_change
        self._stillness = Stillness(still_s)
        self._watched: dict[str, _Identity] = {}
        self._touched: set[str] = set()
        self._begun = False  # a watch has, since the last look
        self._stirred = asyncio.Event()
        self._outdated = asyncio.Event()

    def refresh(self) -> None:
        """There may be other places now."""
        self._stirred.set()

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_listening(), name="hear of changed files")
            tasks.create_task(self._keep_looking(), name="look at changed files")

    async def _keep_listening(self) -> None:
        while True:
            self._outdated.clear()
            self._watched = await asyncio.to_thread(_ground, set(self._places()))
            try:
                await self._listen()
            except OSError:  # one is gone since, or these are more than the kernel watches: until then, look
                self._stirred.set()
                await asyncio.sleep(_AGAIN)

    async def _listen(self) -> None:
        """Until something else is to be watched."""
        batches = awatch(
            *self._watched, watch_filter=None, debounce=_PATIENCE, step=_QUIET, stop_event=self._outdated, recursive=False,
            ignore_permission_denied=True,
        )  # fmt: skip
        # Nobody looks before the watch stands: it is made before it first waits. What changed until then no event tells.
        self._begun = True
        self._stirred.set()
        async with contextlib.aclosing(batches):
            async for batch in batches:
                for _, path in batch:
                    self._touched |= {path, os.path.dirname(path)}
                self._stirred.set()
                if any(path in self._watched and change != Change.modified for change, path in batch):
                    return  # it is gone, and what has its name now, perhaps its inode too, is not watched

    async def _keep_looking(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._stillness.left(time.monotonic(), _UNASKED)):
                    await self._stirred.wait()
            self._stirred.clear()
            await self._look()

    async def _look(self) -> None:
        places = set(self._places())
        begun, self._begun = self._begun, False
        touched, self._touched = self._touched, set()
        ground, seen = await asyncio.to_thread(lambda: (_ground(places), {place: _sight(place) for place in places}))
        if ground != self._watched:
            self._outdated.set()
        stirred = {place for place, sight in seen.items() if begun or sight.real in touched}
        if changed := self._stillness.settled(seen, stirred, time.monotonic()):
            await self._on_change(changed)


class Stillness:
    """Which places have changed and can be read: a file in the middle of being written says something else than it will."""

    def __init__(self, still_s: float) -> None:
        self._still_s = still_s
        self._seen: Mapping[Path, Sight] = {}
        self._moving: dict[Path, float] = {}  # since when it is as it is, by the monotonic clock

    def settled(self, seen: Mapping[Path, Sight], stirred: set[Path], now: float) -> set[Path]:
        """Those of the places that were `stirred`, or look otherwise than last time, and, unless directories, are still again."""
        moved = {place for place, sight in seen.items() if place in stirred or sight != self._seen.get(place)}
        moving = {place: since for place, since in self._moving.items() if place in seen} | dict.fromkeys(moved, now)
        settled = {place for place, since in moving.items() if seen[place].directory or now - since >= self._still_s}
        self._seen = seen
        self._moving = {place: since for place, since in moving.items() if place not in settled}
        return settled

    def left(self, now: float, otherwise: float) -> float:
        """Seconds until one of them may be still, or `otherwise` where none moves."""
        return min((since + self._still_s - now for since in self._moving.values()), default=otherwise)


def _sight(place: Path) -> Sight:
    real = os.path.realpath(place)
    try:
        found = os.stat(real)
    except OSError:
        return Sight(real, False, ())
    marks = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    return Sight(real, stat.S_ISDIR(found.st_mode), marks)


def _ground(places: set[Path]) -> dict[str, _Identity]:
    """All directories in which something may happen to these places, by their real paths."""
    ground: dict[str, _Identity] = {}
    for name in {name for place in places for name in _names(place)}:
        with contextlib.suppress(OSError):
            directory = _nearest(name)
            found = os.stat(directory)
            ground[directory] = (found.st_dev, found.st_ino)
    return ground


def _names(place: Path) -> Iterator[str]:
    """The real paths of a place, of the directory around it, and of those in which a link on the way to it stands."""
    yield os.path.realpath(place)
    yield os.path.dirname(os.path.realpath(place))
    links: set[str] = set()
    ahead = [place.absolute()]
    while ahead:
        path = ahead.pop()
        for name in (path, *path.parents):
            around = os.path.realpath(name.parent)
            link = os.path.join(around, name.name)
            if link not in links and os.path.islink(link):
                links.add(link)
                yield around
                with contextlib.suppress(OSError):  # it was one a moment ago
                    ahead.append(Path(around, os.readlink(link)))


def _nearest(name: str) -> str:
    """The directory itself, or while it is not there, the one in which it or one above it would appear."""
    while not os.path.isdir(name) and name != os.path.dirname(name):
        name = os.path.dirname(name)
    return name
