"""States kept of what was read: the state of an RNN cannot be cut back, only found again where it was kept."""

import heapq
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Generic, NamedTuple, Protocol, TypeVar

from cortexd.rwkv.reading import Pieces, Reading
from cortexd.wire import CacheLimits

_SPARE = 16  # of so many states one more goes than must, so that not each that is kept costs a search


class State(Protocol):
    @property
    def nbytes(self) -> int: ...


S = TypeVar("S", bound=State)


class Prefix(NamedTuple):
    """What a state is the state after."""

    start: str
    pieces: tuple[bytes, ...]

    @property
    def tokens(self) -> int:
        return sum(map(len, self.pieces)) // 4


class Files(Protocol[S]):
    """The second tier, which outlives the first."""

    def known(self) -> list[Prefix]:
        """What earlier workers have kept; asked for once."""
        ...

    def read(self, prefix: Prefix) -> S | None: ...

    def write(self, prefix: Prefix, state: S) -> None:
        """Returns at once; what is there already is used now."""
        ...

    def touch(self, prefix: Prefix) -> None:
        """It is used now."""
        ...

    def limit(self, count: int) -> None: ...

    def forget(self) -> None: ...

    def close(self) -> None:
        """Returns when what is to be written is written."""
        ...


class _Node(Generic[S]):
    """What was read up to here. It is there as long as a state is kept here or beyond."""

    __slots__ = ("children", "edge", "filed", "parent", "state", "tokens", "used")

    def __init__(self, parent: "_Node[S] | None", edge: bytes, tokens: int) -> None:
        self.parent, self.edge, self.tokens = parent, edge, tokens
        self.children: dict[bytes, _Node[S]] = {}
        self.state: S | None = None
        self.filed = False
        self.used = 0.0


class PrefixCache(Generic[S]):
    """A trie whose edges are the pieces in which prompts are read: a state is found by a prompt that is cut as that one was, and
    so goes on to the last bit as if it had been read from the beginning.

    In memory, that state goes first which saves the fewest tokens, beyond those of the next state that is kept of its beginning,
    for each byte and second since it was last of use.
    """

    def __init__(self, files: Files[S] | None = None, now: Callable[[], float] = monotonic) -> None:
        self._files = files
        self._now = now
        self._limits = CacheLimits()
        self._root: _Node[S] = _Node(None, b"", 0)
        self._learnt = files is None
        self.held = 0  # bytes in memory

    def limit(self, limits: CacheLimits) -> None:
        self._limits = limits
        if self._files is not None and limits.enabled:
            self._files.limit(limits.disk)
        self._fit(self._room)

    @property
    def keeps(self) -> bool:
        """Whether anything is kept at present."""
        return self._limits.enabled and bool(self._limits.host or (self._files is not None and self._limits.disk))

    def resume(self, reading: Reading) -> S | None:
        """The state after the longest beginning that is kept of a prompt, which goes on behind it; never after all of it, as the
        last piece gives the first token.
        """
        if not self._limits.enabled:
            return None
        self._learn()
        path = self._path(reading.start, reading.pieces[:-1])
        for count in range(len(path) - 1, 0, -1):
            if (state := self._get(path[count], reading, count)) is not None:
                reading.skip(count)
                return state
        return None

    def has(self, start: str, pieces: Pieces) -> bool:
        """Whether the state after exactly these is kept."""
        self._learn()
        path = self._path(start, pieces)
        return len(path) == len(pieces) + 1 and (path[-1].state is not None or path[-1].filed)

    def wants(self, reading: Reading, done: int) -> bool:
        """Whether the state after so many pieces is to be kept."""
        return self._limits.enabled and done in reading.kept and bool(self._room or self._files_for(reading, done))

    def note(self, reading: Reading, save: Callable[[], S], done: int | None = None) -> None:
        """So many pieces have been read, as many as are `done` if it is None: where that is one of the places, `save` gives the
        state to be kept.
        """
        if done is None:
            done = -1 if reading.begun else reading.done
        if not self.wants(reading, done):
            return
        files = self._files_for(reading, done)
        self._learn()
        prefix = Prefix(reading.start, tuple(reading.pieces[:done]))
        node = self._grow(prefix)
        node.used = self._now()
        state = node.state if node.state is not None else save()
        if files is not None:
            node.filed = True
            files.write(prefix, state)
        self._hold(node, state)

    def release(self) -> None:
        """Give the memory back; what is on the disk can be found there."""
        self._fit(0)

    def forget(self) -> None:
        self._root = _Node(None, b"", 0)
        self.held = 0
        if self._files is not None:
            self._learnt = True  # there is nothing any more
            self._files.forget()

    def close(self) -> None:
        if self._files is not None:
            self._files.close()

    @property
    def _room(self) -> int:
        return self._limits.host if self._limits.enabled else 0

    def _files_for(self, reading: Reading, done: int) -> Files[S] | None:
        return self._files if reading.kept[done] and self._limits.disk else None

    def _learn(self) -> None:
        if not self._learnt and self._files is not None:
            self._learnt = True
            for prefix in self._files.known():
                self._grow(prefix).filed = True

    def _get(self, node: _Node[S], reading: Reading, count: int) -> S | None:
        state = node.state
        if node.filed and self._files is not None:
            prefix = Prefix(reading.start, tuple(reading.pieces[:count]))
            if state is not None:
                self._files.touch(prefix)
            elif (state := self._files.read(prefix)) is None:  # it was taken away, or is damaged
                node.filed = False
                self._prune(node)
                return None
        node.used = self._now()
        if state is not None:
            self._hold(node, state)
        return state

    def _hold(self, node: _Node[S], state: S) -> None:
        if node.state is None:
            node.state = state
            self.held += state.nbytes
            self._fit(self._room)

    def _fit(self, room: int) -> None:
        """Drop states until no more is held than `room`, and then some more."""
        if self.held <= room:
            return
        worth = self._worth
        # Of two that are worth the same, the longer one stays: a chat goes on at its end.
        heap = [(worth(node), node.tokens, id(node), node) for node in self._nodes() if node.state is not None]
        heapq.heapify(heap)
        spare = len(heap) // _SPARE
        while heap and (self.held > room or spare):
            *_, node = heapq.heappop(heap)
            if heap and (now := worth(node)) > heap[0][0]:  # what it built upon is gone
                heapq.heappush(heap, (now, node.tokens, id(node), node))
                continue
            assert node.state is not None
            spare -= self.held <= room
            self.held -= node.state.nbytes
            node.state = None
            self._prune(node)

    def _worth(self, node: _Node[S]) -> float:
        assert node.state is not None
        below = node.parent
        while below is not None and below.state is None and not below.filed:
            below = below.parent
        saved = node.tokens - (below.tokens if below is not None else 0)
        return saved / node.state.nbytes / (1 + self._now() - node.used)

    def _path(self, start: str, pieces: Pieces) -> list[_Node[S]]:
        """As far as there is one: after no piece, after the first, …"""
        node = self._root.children.get(start.encode())
        path: list[_Node[S]] = []
        for edge in (*pieces, None):
            if node is None:
                break
            path.append(node)
            node = node.children.get(edge) if edge is not None else None
        return path

    def _grow(self, prefix: Prefix) -> _Node[S]:
        node = self._root
        for edge in (prefix.start.encode(), *prefix.pieces):
            child = node.children.get(edge)
            if child is None:
                tokens = node.tokens + len(edge) // 4 if node is not self._root else 0
                child = node.children[edge] = _Node(node, edge, tokens)
            node = child
        return node

    def _nodes(self) -> Iterator[_Node[S]]:
        left = [self._root]
        while left:
            node = left.pop()
            yield node
            left.extend(node.children.values())

    def _prune(self, node: _Node[S]) -> None:
        while node.parent is not None and node.state is None and not node.filed and not node.children:
            del node.parent.children[node.edge]
            node = node.parent
