"""A service manager as small as a test needs: it hears notifications and passes sockets on."""

import fcntl
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import IO

# What a manager does between fork and exec, because only then it knows the process id that the service will have.
_LAUNCH = """
import os, sys
for wanted, passed in enumerate(sys.argv[1].split(), start=3):
    os.dup2(int(passed), wanted)
    os.close(int(passed))
os.environ["LISTEN_PID"] = os.environ["WATCHDOG_PID"] = str(os.getpid())
os.execv(sys.argv[2], sys.argv[2:])
"""
_ABOVE_ALL_WANTED = 50


class ServiceManager:
    """The receiving end of the notifications; `patience` is how many seconds it waits for one."""

    def __init__(self, address: str, patience: float = 10) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.socket.settimeout(patience)

    def receive(self) -> dict[str, str]:
        """The next message, by variable."""
        lines = self.socket.recv(4096).decode().split("\n")
        return dict(line.split("=", 1) for line in lines)

    def receive_until(self, variable: str) -> dict[str, str]:
        """The next message that sets `variable`; those before it are dropped."""
        while variable not in (message := self.receive()):
            pass
        return message


def activate(
    arguments: Sequence[str],
    passed: Sequence[int],
    env: Mapping[str, str],
    *,
    output: int | IO[str] = subprocess.PIPE,
    errors: int = subprocess.PIPE,
) -> subprocess.Popen[str]:
    """Starts a program with the `passed` descriptors as its own 3, 4, … and tells it by LISTEN_FDS and LISTEN_PID."""
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _ABOVE_ALL_WANTED) for fd in passed]
    try:
        return subprocess.Popen(
            [sys.executable, "-c", _LAUNCH, " ".join(map(str, high)), *arguments],
            env={**os.environ, "LISTEN_FDS": str(len(passed)), **env},
            pass_fds=high,
            stdout=output,
            stderr=errors,
            text=True,
        )
    finally:
        for fd in high:
            os.close(fd)
