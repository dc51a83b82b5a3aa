"""State-tuned initial states that models and requests may name: uploaded, checked, kept in versions."""

import asyncio
import contextlib
import difflib
import os
import re
import tempfile
from collections.abc import AsyncIterable, AsyncIterator, Generator
from pathlib import Path

from cortexd.catalogue.spec import ModelSpec
from cortexd.checkpoints.tuned_state import StateShape, TunedState
from cortexd.errors import BadRequest, StoreFailed, UnknownState, UnsupportedCheckpoint
from cortexd.store.failures import store_errors
from cortexd.store.replacement import sync
from cortexd.store.states import StateContent, States, StateVersion
from cortexd.wire import InitialState

_NAME = re.compile(r"\w[\w.-]{0,127}")
_EDITION = re.compile(r"(.+)@([1-9][0-9]{0,17})", re.DOTALL)
_NEAREST = 3
_PART = ".part-"  # begins the names of files that are not complete
_AT_ONCE = 2**20  # bytes that are written in one go


class StateLibrary:
    """Versions are rows of the store; what they hold is a file each, named by its SHA-256, which several may share.

    Versions that may be named are in memory too: an answer that starts from a state waits for no database. `start` before use.
    """

    def __init__(self, states: States | None, directory: Path | None) -> None:
        """Without a store, or a directory for the files, there are none, and none can be added."""
        self._states = states
        self._directory = directory
        self._living: dict[str, dict[int, StateVersion]] = {}
        self._changing = asyncio.Lock()

    async def start(self) -> None:
        """Recall what there is, and clear away what was being uploaded when the last daemon ended. Raises StoreFailed."""
        if self._states is None:
            return
        for version in await self._states.list():
            if not version.deleted:
                self._living.setdefault(version.name, {})[version.version] = version
        await asyncio.to_thread(self._clear_away)

    def newest(self) -> list[StateVersion]:
        """Of each name, in order."""
        return [self._living[name][max(self._living[name])] for name in sorted(self._living)]

    async def history(self, name: str) -> list[StateVersion]:
        """Every version there was, newest first. Raises UnknownState, StoreFailed."""
        versions = await self._states.list(name) if self._states is not None else []
        if not versions:
            raise self._unknown(name)
        return versions[::-1]

    def resolve(self, name: str) -> StateVersion:
        """The newest version of "poet", or the second of "poet@2"; raises UnknownState naming the nearest."""
        match = _EDITION.fullmatch(name)
        versions = self._living.get(match[1] if match else name)
        if versions is None:
            raise self._unknown(name)
        wanted = int(match[2]) if match else max(versions)
        if wanted not in versions:
            there = ", ".join(map(str, sorted(versions)))
            raise UnknownState(f"There is no state {_shown(name)}; its versions are {there}.", param="state")
        return versions[wanted]

    def path(self, version: StateVersion) -> Path:
        """Of its file: safetensors, `blocks.{i}.att.time_state` `[H, V, K]` in fp32."""
        assert self._directory is not None, "a version was kept somewhere"
        return self._directory / f"{version.content_hash}.safetensors"

    def check(self, spec: ModelSpec, version: StateVersion) -> None:
        """Raises BadRequest where the model cannot start from it."""
        if not spec.layers:
            raise BadRequest(f"{spec.name} cannot start from a state: only RWKV models can.", param="state")
        has = StateShape(version.layers, version.heads, version.size)
        needed = StateShape(spec.layers, spec.heads, spec.head_size)
        if has != needed:
            raise BadRequest(f"The state {version} has {has}, but {spec.name} needs {needed}.", param="state")

    def initial(self, spec: ModelSpec, asked: str | None = None) -> InitialState | None:
        """What an answer of this model starts from: the state that is asked for, "" for none, else the model's own.

        Raises UnknownState, BadRequest.
        """
        name = spec.state if asked is None else asked
        if not name:
            return None
        try:
            version = self.resolve(name)
            self.check(spec, version)
        except (UnknownState, BadRequest) as error:
            if asked is not None:
                raise
            raise type(error)(f"{spec.name} is configured to start from {name!r}: {error.message}") from error
        return InitialState(str(self.path(version)), version.content_hash)

    async def receive(self, name: str, chunks: AsyncIterable[bytes], author: str) -> StateVersion:
        """`add` what arrives bit by bit. What `chunks` raises is raised, and nothing has changed then."""
        _, directory = self._place(name)
        part = await asyncio.to_thread(_make_part, directory)
        try:
            await _write(part, chunks)
            return await self.add(name, part, author)
        finally:
            part.unlink(missing_ok=True)

    async def add(self, name: str, file: Path, author: str) -> StateVersion:
        """The newest version of `name` from now on is what `file` holds, a .pth or safetensors file.

        Raises BadRequest where it holds no state, or not under such a name; StoreFull and StoreFailed where it cannot be kept.
        """
        states, directory = self._place(name)
        async with self._changing:
            content = await asyncio.to_thread(_keep, file, name, directory)
            version = await states.put(name, content, author)
            self._living.setdefault(name, {})[version.version] = version
        return version

    async def delete(self, name: str) -> None:
        """No version of `name` can be named any more; files that no other names go. Raises UnknownState, StoreFailed."""
        async with self._changing:
            if self._states is None or name not in self._living:
                raise self._unknown(name)
            await self._states.delete(name)
            gone = self._living.pop(name)
            needed = {version.content_hash for others in self._living.values() for version in others.values()}
            files = [self.path(version) for version in gone.values() if version.content_hash not in needed]
            await asyncio.to_thread(_remove, files)

    def _place(self, name: str) -> tuple[States, Path]:
        if _NAME.fullmatch(name) is None:
            raise BadRequest(
                f"{_shown(name)} cannot be the name of a state: use up to 128 letters, digits, dots, hyphens and "
                "underscores, and begin with none of . and -.",
                param="name",
            )
        if self._states is None or self._directory is None:
            raise StoreFailed("This daemon has no data directory, and can keep no states.")
        return self._states, self._directory

    def _clear_away(self) -> None:
        if self._directory is not None:
            _remove(list(self._directory.glob(f"{_PART}*")))

    def _unknown(self, name: str) -> UnknownState:
        stem = name.partition("@")[0].lower()
        lower = {known.lower(): known for known in sorted(self._living)}
        nearest = difflib.get_close_matches(stem, lower, n=_NEAREST, cutoff=0.5) or list(lower)[:_NEAREST]
        names = ", ".join(lower[near] for near in nearest)
        hint = f"the nearest there is: {names}" if names else "there is none"
        return UnknownState(
            f"There is no state {_shown(name)}; {hint}. Add one with `cortexd state add`.", param="state"
        )


async def _write(file: Path, chunks: AsyncIterable[bytes]) -> None:
    with store_errors(file.parent, "The directory"):
        opened = await asyncio.to_thread(file.open, "wb")
    try:
        async for piece in _gathered(chunks):
            with store_errors(file.parent, "The directory"):
                await asyncio.to_thread(opened.write, piece)
    finally:
        with store_errors(file.parent, "The directory"):
            await asyncio.to_thread(opened.close)


async def _gathered(chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """The same bytes in fewer pieces: each of them costs a way to another thread and back."""
    piece = bytearray()
    async for chunk in chunks:
        piece += chunk
        if len(piece) >= _AT_ONCE:
            yield bytes(piece)
            piece.clear()
    yield bytes(piece)


def _make_part(directory: Path) -> Path:
    """An empty file, mode 0600, to become something."""
    with store_errors(directory, "The directory"):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=_PART, dir=directory)
        os.close(descriptor)
    return Path(name)


@contextlib.contextmanager
def _part(directory: Path) -> Generator[Path]:
    """One that is gone at the end, unless it has another name then."""
    part = _make_part(directory)
    try:
        yield part
    finally:
        part.unlink(missing_ok=True)


def _keep(file: Path, name: str, directory: Path) -> StateContent:
    """Have what `file` holds in the directory, on the disk when this returns. Raises as `StateLibrary.add`."""
    with store_errors(directory, "The directory"), file.open("rb") as opened, _part(directory) as part:
        try:
            tuned = TunedState(opened, name)
            with part.open("wb") as out:
                digest = tuned.write(out)
        except UnsupportedCheckpoint as error:
            raise BadRequest(error.message) from error
        size = part.stat().st_size
        sync(part)
        part.replace(directory / f"{digest}.safetensors")
        sync(directory)
    shape = tuned.shape
    return StateContent(
        content_hash=digest, layers=shape.layers, heads=shape.heads, size=shape.size, dtype=tuned.dtype, bytes=size
    )


def _remove(files: list[Path]) -> None:
    for file in files:
        with contextlib.suppress(OSError):  # it takes room, and is of no use to anybody: no reason to fail
            file.unlink(missing_ok=True)


def _shown(name: str) -> str:
    return repr(name if len(name) <= 80 else f"{name[:80]}…")
