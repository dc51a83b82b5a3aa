"""Time as the supervisor sees it. A running event loop is a `Clock`; so is a test's or a simulator's."""

from collections.abc import Callable
from typing import Any, Protocol


class Timer(Protocol):
    def cancel(self) -> None: ...


class Clock(Protocol):
    def time(self) -> float:
        """Seconds since some moment, never going back."""
        ...

    def call_at(self, when: float, callback: Callable[[], Any], /) -> Timer: ...
