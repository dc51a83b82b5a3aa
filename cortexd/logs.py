"""Log lines on stderr: for people on a terminal, JSON elsewhere. Never a prompt, never a key."""

import logging
import sys
from typing import Any

import msgspec
import structlog

from cortexd.events import Decided, Event

_NAMES = {
    "ModelMoved": "model",
    "RequestEnded": "request",
    "Decided": "decision",
    "MemoryWarning": "memory",
    "ConfigurationChanged": "configuration",
    "ConfigurationRefused": "configuration refused",
    "SessionLost": "session",
}
_LONG = ("weighed", "memory", "config")  # of a decision: the journal keeps them


def configure(level: str) -> None:
    """Once, at the start of a process."""
    number = logging.getLevelNamesMapping()[level.upper()]
    renderer: Any = structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(message)s")


def say(message: str, **facts: Any) -> None:
    structlog.get_logger().info(message, **facts)


def log_event(event: Event) -> None:
    """A listener for the event bus: one line per event."""
    facts: dict[str, Any] = msgspec.to_builtins(event)
    name: str = facts.pop("event")
    facts.pop("at")
    if isinstance(event, Decided):
        for key in _LONG:
            facts.pop(key, None)
    say(_NAMES.get(name, name), **facts)
