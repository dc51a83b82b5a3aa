"""The daemon's end of the warm fork server, and of the processes it makes."""

import asyncio
import contextlib
import itertools
import os
import signal
import socket
import sys

from cortexd import wire
from cortexd.errors import LoadFailed

_REAP_TIMEOUT = 2.0  # seconds from a worker's end until its status must have been told
_END_TIMEOUT = 2.0  # seconds until a fork server that was told to end is killed
ENVIRONMENT = {  # of every process that computes
    "OPENBLAS_NUM_THREADS": "1",  # numpy would start threads as soon as it is imported
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # as the driver numbers them, of which the daemon knows
}
_START_TIMEOUT = 60.0  # seconds until a fork server that has to import torch from a cold disk must have answered


class WorkerProcess:
    """A worker process: its socket, and its end, which is seen even when the fork server that made it is gone."""

    def __init__(self, pid: int, sock: socket.socket) -> None:
        self.pid = pid
        self.socket = sock
        self._loop = asyncio.get_running_loop()
        self._exited: asyncio.Future[int | None] = self._loop.create_future()
        self._dead = False
        self._orphaned = False
        self._pidfd = -1
        try:
            self._pidfd = os.pidfd_open(pid)
            self._loop.add_reader(self._pidfd, self._died)
        except ProcessLookupError:
            self._dead = True

    def kill(self) -> None:
        """SIGKILL, now; harmless when it has ended."""
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    async def exited(self) -> int | None:
        """Returns when it has ended: its wait status, None where nobody is left to know it."""
        return await asyncio.shield(self._exited)

    def reaped(self, status: int | None) -> None:
        """Told by the fork server."""
        if not self._exited.done():
            self._exited.set_result(status)
        self._forget_pidfd()

    def orphan(self) -> None:
        """The fork server is gone: its own end is all that will be known of this process."""
        self._orphaned = True
        if self._dead:
            self.reaped(None)

    def _died(self) -> None:
        self._dead = True
        self._loop.remove_reader(self._pidfd)
        if self._orphaned:
            self.reaped(None)
        else:  # a fork server that hangs tells nobody
            self._loop.call_later(_REAP_TIMEOUT, self.reaped, None)

    def _forget_pidfd(self) -> None:
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1


class ForkServer:
    """Starts `python -m cortexd.rwkv.fork_server` when first needed, and again should it have died."""

    def __init__(self, module: str = "cortexd.rwkv.fork_server") -> None:
        self._module = module
        self._process: asyncio.subprocess.Process | None = None
        self._control: socket.socket | None = None
        self._starting: asyncio.Task[None] | None = None
        self._tickets = itertools.count()
        self._forks: dict[int, tuple[asyncio.Future[WorkerProcess], socket.socket]] = {}
        self._workers: dict[int, WorkerProcess] = {}

    async def start(self) -> None:
        """Have the server running; single flight."""
        if self._control is not None:
            return
        if self._starting is None:
            self._starting = asyncio.create_task(self._start(), name="start fork server")
            self._starting.add_done_callback(self._started)
        await asyncio.shield(self._starting)

    async def spawn(self) -> WorkerProcess:
        """A new worker; raises LoadFailed where none can be made."""
        try:
            async with asyncio.timeout(_START_TIMEOUT):
                try:
                    await self.start()
                    return await self._spawn()
                except ConnectionError:  # it has ended, which is seen only now: once more, with a new one
                    self._disconnect()
                    await self.start()
                    return await self._spawn()
        except (OSError, TimeoutError) as error:
            raise LoadFailed(f"No worker process can be started on this machine ({error or 'no answer'}).") from error

    async def close(self) -> None:
        """End the server. Workers end by themselves: their sockets close with the daemon's engines."""
        if self._starting is not None:
            self._starting.cancel()
        self._disconnect()
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()  # it sees that we are gone only once it has imported torch
            try:
                async with asyncio.timeout(_END_TIMEOUT):
                    await self._process.wait()
            except TimeoutError:
                self._process.kill()
                await self._process.wait()
            self._process = None

    async def _start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", self._module, str(theirs.fileno()), pass_fds=[theirs.fileno()],
                env={**os.environ, **ENVIRONMENT},
                stdin=asyncio.subprocess.DEVNULL, stdout=2,
            )  # fmt: skip
        self._control = ours
        asyncio.get_running_loop().add_reader(ours.fileno(), self._receive)

    def _started(self, task: "asyncio.Task[None]") -> None:
        self._starting = None
        if not task.cancelled():
            task.exception()  # whoever waits has been told

    async def _spawn(self) -> WorkerProcess:
        assert self._control is not None
        ticket = next(self._tickets)
        forked: asyncio.Future[WorkerProcess] = asyncio.get_running_loop().create_future()
        ours, theirs = socket.socketpair()
        self._forks[ticket] = (forked, ours)
        try:
            with theirs:
                socket.send_fds(self._control, [wire.encode_packet(wire.Fork(ticket))], [theirs.fileno()])
            return await forked
        except BaseException:
            ours.close()  # a worker that is made all the same finds its socket closed and ends
            raise

    def _receive(self) -> None:
        assert self._control is not None
        try:
            packet = self._control.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            packet = b""
        if not packet:
            self._disconnect()
            return
        match wire.decode_fork_report(packet):
            case wire.Forked(ticket, pid):
                forked, sock = self._forks.pop(ticket)
                if not forked.done():
                    # Known before the next packet is read, which may already tell of its end.
                    self._workers[pid] = worker = WorkerProcess(pid, sock)
                    forked.set_result(worker)
            case wire.Reaped(pid, status):
                if (worker := self._workers.pop(pid, None)) is not None:
                    worker.reaped(status)

    def _disconnect(self) -> None:
        if self._control is None:
            return
        asyncio.get_running_loop().remove_reader(self._control.fileno())
        self._control.close()
        self._control = None
        for forked, _ in self._forks.values():
            if not forked.done():
                forked.set_exception(ConnectionError("the fork server has ended"))
        self._forks.clear()
        for worker in self._workers.values():
            worker.orphan()
        self._workers.clear()
