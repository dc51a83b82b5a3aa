"""The warm fork server: a process that has imported everything a worker needs and makes workers by fork.

A worker then pays for its weights, not for importing torch: 25 ms instead of 0.8 s, and 9 MB of its own instead of 160. The server
itself never computes: a thread pool started before a fork would not exist in the child and hang it.
"""

import contextlib
import gc
import os
import select
import signal
import socket
import sys
import traceback
from types import FrameType

import msgspec

from cortexd import wire
from cortexd.rwkv import worker
from cortexd.rwkv.native import native_problem
from cortexd.rwkv.rows import learn, survey
from cortexd.rwkv.tokenizer import WorldTokenizer, tokenizer_for
from cortexd_kernels.native.library import do_without, open_native

_OOM_SCORE = "500"
_UNHURRIED = 10  # niceness: a load does not wait for the survey


def serve(control: socket.socket) -> None:
    """Obey the daemon at the other end of `control` (SOCK_SEQPACKET) until it is gone."""
    assert len(os.listdir("/proc/self/task")) == 1, "a fork server must not have threads"
    woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, _wake)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal goes to the whole group; the daemon decides
    children: set[int] = set()
    tokenizer_for(WorldTokenizer.vocabulary)  # made once, shared by all
    surveyor, findings = _survey(control)
    open_files = [control, woken, findings]
    gc.freeze()  # the collector of a child would otherwise write to every page it shares
    while True:
        ready, _, _ = select.select(open_files, [], [])
        if findings in ready:
            open_files.remove(findings)
            _learn(surveyor, findings)
        if woken in ready:
            os.read(woken, 4096)
            _reap(control, children)
        if control in ready:
            packet, fds, _, _ = socket.recv_fds(control, 65536, 1)
            if not packet:
                return
            children.add(_fork(control, wire.decode_fork(packet).ticket, fds[0]))


def _wake(signum: int, frame: FrameType | None) -> None:
    pass


def _survey(control: socket.socket) -> tuple[int, int]:
    """Have a child find out what every load would else have to: its id, and where it tells.

    It compiles the native kernels where they are missing; where they cannot be had, it tries PyTorch's products, which this process
    must not.
    """
    findings, tell = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            control.close()
            os.nice(_UNHURRIED)
            if problem := native_problem():
                os.write(tell, problem.encode() + b"\n" + survey(len(os.sched_getaffinity(0))))
            status = 0
        finally:
            os._exit(status)
    os.close(tell)
    return pid, findings


def _learn(surveyor: int, findings: int) -> None:
    with open(findings, "rb") as file:
        problem, _, products = file.read().partition(b"\n")
    _, status = os.waitpid(surveyor, 0)
    if problem or status:
        do_without(problem.decode() or "whoever tried them crashed")
    else:
        open_native()  # for all that are forked from now on
    with contextlib.suppress(msgspec.MsgspecError):
        learn(products)


def _fork(control: socket.socket, ticket: int, fd: int) -> int:
    pid = os.fork()
    if pid == 0:
        _become_worker(control, fd)
    os.close(fd)
    control.send(wire.encode_packet(wire.Forked(ticket, pid)))
    return pid


def _become_worker(control: socket.socket, fd: int) -> None:
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        control.close()
        _offer_to_the_oom_killer()
        worker.main(socket.socket(fileno=fd))
        status = 0
    except BaseException:  # whatever it is, this process must not go on as a second fork server
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def _offer_to_the_oom_killer() -> None:
    """Where memory runs out, one model shall go and not the daemon."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write(_OOM_SCORE)


def _reap(control: socket.socket, children: set[int]) -> None:
    for pid in tuple(children):
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            children.remove(pid)
            control.send(wire.encode_packet(wire.Reaped(pid, status)))


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
