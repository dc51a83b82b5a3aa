"""Worker processes: made warm, seen to end, never left behind."""

import asyncio
import os
import signal
import sys

import psutil
import pytest

from cortexd.engines.fork_server import ForkServer

pytestmark = pytest.mark.asyncio(loop_scope="package")


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


async def test_a_worker_is_a_process_of_its_own(fork_server: ForkServer):
    worker = await fork_server.spawn()
    assert worker.pid != os.getpid()
    assert psutil.pid_exists(worker.pid)
    worker.kill()
    assert os.WTERMSIG(await worker.exited() or 0) == signal.SIGKILL
    worker.socket.close()


async def test_a_worker_ends_when_its_socket_closes(fork_server: ForkServer):
    worker = await fork_server.spawn()
    worker.socket.close()
    async with asyncio.timeout(5):
        assert await worker.exited() == 0


async def test_many_workers_at_once_are_many_processes(fork_server: ForkServer):
    workers = await asyncio.gather(*(fork_server.spawn() for _ in range(8)))
    assert len({worker.pid for worker in workers}) == 8
    for worker in workers:
        worker.socket.close()
    await asyncio.gather(*(worker.exited() for worker in workers))


async def test_killing_twice_and_after_the_end_is_harmless(fork_server: ForkServer):
    worker = await fork_server.spawn()
    worker.kill()
    worker.kill()
    await worker.exited()
    worker.kill()
    worker.socket.close()


async def test_workers_survive_their_fork_server_and_their_end_is_still_seen():
    server = ForkServer()
    worker = await server.spawn()
    mother = psutil.Process(worker.pid).ppid()
    os.kill(mother, signal.SIGKILL)
    again = await server.spawn()  # a new fork server is started when the next worker is needed
    assert not is_gone(worker.pid)
    worker.socket.close()
    async with asyncio.timeout(5):
        assert await worker.exited() is None
    again.socket.close()
    await again.exited()
    await server.close()


async def test_nothing_is_left_when_the_daemon_is_killed():
    """The daemon's ends of all sockets close with it, by whatever it ends."""
    program = (
        "import asyncio\n"
        "from cortexd.engines.fork_server import ForkServer\n"
        "async def main():\n"
        "    server = ForkServer()\n"
        "    worker = await server.spawn()\n"
        "    print(worker.pid, server._process.pid, flush=True)\n"
        "    await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    daemon = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE)
    assert daemon.stdout is not None
    pids = [int(pid) for pid in (await daemon.stdout.readline()).split()]
    processes = [psutil.Process(pid) for pid in pids]
    daemon.kill()
    await daemon.wait()
    _, alive = await asyncio.to_thread(psutil.wait_procs, processes, timeout=5)
    assert alive == []
