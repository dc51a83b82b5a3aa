"""Sockets taken over, readiness told, watchdog fed: the service manager's protocols without its library.

Everything starts from environment variables, and nothing happens where they are not set. The protocols are
specified in sd_notify(3), sd_watchdog_enabled(3) and sd_listen_fds(3).
"""

import itertools
import os
import socket
import time
from collections.abc import Mapping, MutableMapping
from typing import Self

_VARIABLES = (
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "LISTEN_PIDFDID",
)
_FIRST_FD = 3
_MAX_DIGITS = 19  # of a 64-bit number that is not its "infinity"


class Notifier:
    """Tells the service manager how this process is; each method returns whether the message was handed over.

    Nothing raises and nothing waits: where the manager does not read, the message is lost, not the daemon.
    """

    def __init__(self, address: str | None) -> None:
        self._address = None if address is None else _socket_address(address)

    @classmethod
    def from_environment(cls, env: Mapping[str, str]) -> Self:
        """A notifier to `NOTIFY_SOCKET`, or one that does nothing."""
        return cls(env.get("NOTIFY_SOCKET") or None)

    @property
    def enabled(self) -> bool:
        """Whether there is a service manager to tell."""
        return self._address is not None

    def ready(self, status: str) -> bool:
        """Started, or reloaded. Repeat it on False: a daemon that never gets ready is ended by its manager."""
        return self._send("READY=1", _status(status))

    def status(self, text: str) -> bool:
        return self._send(_status(text))

    def stopping(self, status: str) -> bool:
        return self._send("STOPPING=1", _status(status))

    def reloading(self) -> bool:
        """A reload began; `ready` ends it."""
        return self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def extend_timeout(self, seconds: float) -> bool:
        """Starting or stopping may take `seconds` more from now, whatever the unit's own limit."""
        return self._send(f"EXTEND_TIMEOUT_USEC={round(seconds * 1_000_000)}")

    def watchdog(self) -> bool:
        return self._send("WATCHDOG=1")

    def _send(self, *assignments: str) -> bool:
        if self._address is None:
            return False
        message = "\n".join(assignments).encode(errors="replace")
        try:
            # A socket for each message, as libsystemd does, survives a manager that was itself restarted.
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                sender.sendto(message, self._address)
        except OSError:
            return False
        return True


def watchdog_interval(env: Mapping[str, str]) -> float | None:
    """Seconds between pings, half of what the manager allows; None where it does not watch this process."""
    limit = _positive(env.get("WATCHDOG_USEC"))
    if limit is None or env.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return limit / 1_000_000 / 2


def listen_sockets(env: Mapping[str, str]) -> dict[str, list[socket.socket]]:
    """The listening sockets that the manager opened for this process, by `FileDescriptorName=`; call it once.

    Raises ValueError when something was passed that connections cannot be accepted from.
    """
    count = _positive(env.get("LISTEN_FDS"))
    if count is None or env.get("LISTEN_PID") != str(os.getpid()):
        return {}
    names = itertools.chain(env.get("LISTEN_FDNAMES", "").split(":"), itertools.repeat(""))
    sockets: dict[str, list[socket.socket]] = {}
    for fd, given in zip(range(_FIRST_FD, _FIRST_FD + count), names, strict=False):
        name = given or "unknown"
        sockets.setdefault(name, []).append(_listening_socket(fd, name))
    return sockets


def consume_environment(env: MutableMapping[str, str] = os.environ) -> dict[str, str]:
    """Take the manager's variables out of `env` and return them: workers must not speak for the daemon."""
    return {name: env.pop(name) for name in _VARIABLES if name in env}


def _socket_address(address: str) -> bytes:
    path = os.fsencode(address)
    # A leading "@" stands for the NUL byte of an abstract name, which no environment variable can hold.
    return b"\0" + path[1:] if path.startswith(b"@") else path


def _status(text: str) -> str:
    # A line break would begin an assignment of its own, and a status may quote the name of a model.
    return "STATUS=" + " ".join(text.split())


def _positive(text: str | None) -> int | None:
    if text is None or not (text.isascii() and text.isdecimal()) or len(text) > _MAX_DIGITS:
        return None
    return int(text) or None


def _listening_socket(fd: int, name: str) -> socket.socket:
    try:
        # The manager passes descriptors that survive exec; workers would otherwise keep the port open.
        os.set_inheritable(fd, False)
        inherited = socket.socket(fileno=fd)
        if inherited.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return inherited
        inherited.close()
        problem = "does not listen"
    except OSError as error:
        problem = (error.strerror or str(error)).lower()
    raise ValueError(
        f"file descriptor {fd} ({name!r}) from the service manager cannot be served: {problem};"
        " pass it by ListenStream= in a socket unit with Accept=no"
    )
