"""The self-check as a load meets it: in a process of its own, one at a time, and only where no verdict is kept."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import IO, Any

import torch

from cortexd_kernels.files import turn
from cortexd_kernels.hardware import Hardware, hardware_of
from cortexd_kernels.native.layout import NAMES
from cortexd_kernels.release import folder, sweep
from cortexd_kernels.self_check import FUSED, Finding
from cortexd_kernels.verdicts import Verdict, Verdicts

_MODULE = "cortexd_kernels.self_check"
_PATIENCE = 90.0  # seconds: what is computed may have to be compiled first, on a busy machine
_END = 5.0  # seconds that a killed process has to end: one that waits for a broken device does not


class Examiner:
    """Keeps verdicts in `cache`, or none. `operators` are "module:name"; `patience` says how many seconds one case may take.

    The process that checks is a new interpreter, not a fork: a fork could not use a GPU that its parent has used, and a kernel
    that reads where it must not leaves no other harm behind.
    """

    def __init__(
        self,
        cache: Path | None,
        operators: str = FUSED,
        patience: Callable[[str], float] = lambda _: _PATIENCE,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._cache = cache
        self._operators = operators
        self._patience = patience
        self._now = now
        self._verdicts = Verdicts(cache)

    def verdict(
        self, device: torch.device, dtype: torch.dtype, *, anew: bool = False, alive: Callable[[], None] = lambda: None
    ) -> Verdict:
        """What is kept, or found out now, as is done `anew` in any case; `alive` is told whenever that gets on."""
        hardware, name = hardware_of(device), NAMES[dtype]
        if not anew and (kept := self._standing(hardware, name)) is not None:
            return kept
        with self._turn(alive):
            if not anew and (kept := self._standing(hardware, name)) is not None:
                return kept  # found out by whom we have waited for
            try:
                finding = self._find_out(device, name, alive)
            except OSError as error:
                finding = Finding(f"the kernels cannot be checked on {device} in {name}: {error}", True)
            verdict = Verdict(hardware.name, name, finding.problem, self._now(), finding.passing)
            self._verdicts.keep(hardware, verdict)
        return verdict

    def _standing(self, hardware: Hardware, dtype: str) -> Verdict | None:
        kept = self._verdicts.find(hardware, dtype)
        return kept if kept is not None and kept.stands(self._now()) else None

    @contextlib.contextmanager
    def _turn(self, alive: Callable[[], None]) -> Generator[None]:
        """Several checks at once would wait for each other's compilers, and for the memory of the device."""
        with contextlib.ExitStack() as stack:
            if self._cache is not None:
                with contextlib.suppress(OSError):  # where nothing can be kept, nobody waits either
                    own = folder(self._cache)
                    own.mkdir(mode=0o700, parents=True, exist_ok=True)
                    stack.enter_context(turn(own / "lock", alive))
                    sweep(self._cache, self._now())
            yield

    def _find_out(self, device: torch.device, dtype: str, alive: Callable[[], None]) -> Finding:
        command = [sys.executable, "-m", _MODULE, str(device), dtype, self._operators]
        with tempfile.TemporaryFile() as said:
            # A session of its own: a compiler that it has started ends with it.
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said, start_new_session=True
            )
            assert child.stdout is not None
            lines, begun, where = _Lines(child.stdout), "the start", f"on {device} in {dtype}"
            try:
                while (line := lines.next(patience := self._patience(begun))) is not None:
                    if "problem" in line:
                        _wait(child)  # what it holds of the device is for the load
                        return Finding(line["problem"], line["passing"])
                    begun = line["begin"]
                    alive()
                _wait(child)
                return Finding(f"{begun} ends the process that checks it {where}: {_end(child, said)}", True)
            except TimeoutError:
                return Finding(f"{begun} does not end {where}: it was given {patience:g} s", True)
            finally:
                _kill(child)
                child.stdout.close()


class _Lines:
    """Of JSON, as a process writes them; whatever else it says is passed over."""

    def __init__(self, output: IO[bytes]) -> None:
        self._output = output
        self._read = b""

    def next(self, patience: float) -> dict[str, Any] | None:
        """None at the end; raises TimeoutError where nothing comes for so many seconds."""
        while True:
            while b"\n" in self._read:
                line, _, self._read = self._read.partition(b"\n")
                with contextlib.suppress(ValueError):
                    if isinstance(told := json.loads(line), dict):
                        return told
            if not select.select([self._output], [], [], patience)[0]:
                raise TimeoutError
            if not (data := os.read(self._output.fileno(), 65536)):
                return None
            self._read += data


def _wait(child: "subprocess.Popen[bytes]") -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(_END)


def _kill(child: "subprocess.Popen[bytes]") -> None:
    if child.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        _wait(child)


def _end(child: "subprocess.Popen[bytes]", said: IO[bytes]) -> str:
    status = child.poll()
    if status is not None and status < 0:
        return f"killed by {signal.Signals(-status).name}"
    said.seek(0)
    lines = [line.strip() for line in said.read().decode(errors="replace").split("\n")]
    return next(filter(None, reversed(lines)), f"exit status {status}")
