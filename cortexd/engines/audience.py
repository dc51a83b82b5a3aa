"""Engines that run, for whoever has news for all of them."""

import contextlib
from collections.abc import Callable
from typing import Generic, TypeVar

N = TypeVar("N")


class Audience(Generic[N]):
    """Of news of kind N. An engine joins it when it runs, knowing what holds then."""

    def __init__(self) -> None:
        self._running: list[Callable[[N], None]] = []

    def join(self, tell: Callable[[N], None]) -> None:
        """An engine runs, with what holds now: it is told what changes."""
        self._running.append(tell)

    def leave(self, tell: Callable[[N], None]) -> None:
        """It has ended; harmless if it had not joined."""
        with contextlib.suppress(ValueError):
            self._running.remove(tell)

    def _tell(self, news: N) -> None:
        for tell in tuple(self._running):
            tell(news)
