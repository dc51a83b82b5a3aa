"""The worker process: one model, one socket, one loop."""

import contextlib
import os
import socket
import threading
from collections import deque
from pathlib import Path
from time import monotonic

import msgspec
import torch

from cortexd import wire
from cortexd.errors import CortexdError
from cortexd.rwkv.device_drawing import DeviceDrawing
from cortexd.rwkv.drawing import Drawing
from cortexd.rwkv.intake import Intake
from cortexd.rwkv.prefix_cache import PrefixCache
from cortexd.rwkv.prepare import FORMAT
from cortexd.rwkv.prompt import template_for
from cortexd.rwkv.recollections import Recollections
from cortexd.rwkv.runner import Runner
from cortexd.rwkv.scheduler import Scheduler
from cortexd.rwkv.sequence import SavedSequence, Sequence
from cortexd.rwkv.sessions import Sessions
from cortexd.rwkv.state_files import StateFiles
from cortexd.rwkv.tokenizer import tokenizer_for
from cortexd.rwkv.weights_cache import WeightsCache
from cortexd.session_files import SessionKey

_PROGRESS_PERIOD = 0.05  # seconds between two reports of a load
_QUIET = 0.25  # seconds without a request until what was answered is read again


class Inbox:
    """Commands from the daemon, read by a thread of their own, so that the loop can look without waiting.

    When the daemon's end closes, by whatever cause, there is nobody left to work for: the process ends on the spot.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._commands: deque[wire.Command] = deque()
        self._arrived = threading.Event()
        threading.Thread(target=self._read, name="inbox", daemon=True).start()

    def first(self) -> wire.Command:
        """Wait for one command and leave what comes after it."""
        self._arrived.wait()
        return self._commands.popleft()

    def take(self, patience: float | None) -> list[wire.Command]:
        """What has arrived, after waiting so many seconds for a first command; for ever if it is None."""
        until = None if patience is None else monotonic() + patience
        while True:
            self._arrived.clear()
            taken: list[wire.Command] = []
            with contextlib.suppress(IndexError):
                while True:
                    taken.append(self._commands.popleft())
            left = None if until is None else until - monotonic()
            if taken or (left is not None and left <= 0):
                return taken
            self._arrived.wait(left)

    def _read(self) -> None:
        frames = wire.FrameReader()
        with contextlib.suppress(OSError):
            while data := self._sock.recv(1 << 16):
                for frame in frames.feed(data):
                    self._commands.append(wire.decode_command(frame))
                self._arrived.set()
        os._exit(0)


class Worker:
    """The loop of a loaded model: take commands, choose, compute, draw, tell."""

    def __init__(self, sock: socket.socket, inbox: Inbox, load: wire.Load) -> None:
        self._sock = sock
        self._sending = threading.Lock()
        self._inbox = inbox
        self._running = True
        self._next_report = 0.0
        self._answered = 0.0  # when a request was last computed for
        self._rejected: list[wire.Rejected] = []
        self._adopted: dict[int, bytearray] = {}  # parts that have arrived of a saved sequence
        cache = WeightsCache(Path(load.cache)) if load.cache else None
        self.runner = Runner(load.path, load.strategy, load.slots, self._report_progress, cache)
        shape = self.runner.shape
        self._tokenizer = tokenizer = tokenizer_for(shape.vocabulary)
        template = template_for(load.template, Path(load.path).stem)
        sample, slots = self.runner.sample, self.runner.pool.slots
        device = None if sample is None else DeviceDrawing(sample, slots, tokenizer.banned, tokenizer.uncounted)
        self._drawing = Drawing(tokenizer.banned, self.runner.threads, device)
        self._intake = Intake(shape, tokenizer, template, load.context)
        self._kept = PrefixCache(self._state_files(load.states) if load.states else None)
        self._sessions = self._open_sessions(load) if load.sessions else None
        self._limit(load.kept)
        self._scheduler = Scheduler(
            self.runner.pool,
            load.prefill_budget,
            self._kept,
            sessions=self._sessions,
            target=load.step_target,
            exact=self.runner.exact_cuts,
        )
        self._recollections = Recollections(
            self.runner.pool,
            self._kept,
            self._intake.recollection,
            self._intake.states.get,
            self._sessions,
            exact=self.runner.exact_cuts,
        )
        self.facts = wire.Loaded(
            version=shape.version,
            layers=shape.layers,
            width=shape.width,
            vocabulary=shape.vocabulary,
            context=load.context,
            slots=self.runner.pool.slots,
            weight_bytes=self.runner.weight_bytes,
            strategy=self.runner.strategy,
            thinks=template.thinks,
            notices=self.runner.notices,
        )

    def run(self) -> None:
        """Until the daemon says so, or goes away."""
        while True:
            for command in self._inbox.take(self._patience()):
                self.obey(command)
            if not self._running:
                self._close()
                for command in self._inbox.take(0.0):
                    if isinstance(command, wire.ForgetSession):  # removed while it was written
                        self.obey(command)
                return
            self.step()

    def _patience(self) -> float | None:
        """How long to wait for a command before the next step."""
        if self._scheduler.running or self._scheduler.waiting or self._rejected or self._recollections.urgent:
            return 0.0
        if self._recollections.busy:  # whoever asks next, asks now, and would have to wait for it
            return max(0.0, self._answered + _QUIET - monotonic())
        self._scheduler.check_idle()
        return None

    def _close(self) -> None:
        self._recollections.settle(self.runner.run)
        self._kept.close()
        if self._sessions is not None:
            self._sessions.close()

    @property
    def _identity(self) -> str:
        """Of this model in this arithmetic: states of another would be no worse, but another's answers."""
        return f"{FORMAT}/{self.runner.identity}/{self.runner.strategy}/{self.runner.arithmetic}"

    def _state_files(self, directory: str) -> StateFiles:
        return StateFiles(Path(directory), self._identity, self.runner.pool.unpack)

    def _open_sessions(self, load: wire.Load) -> Sessions:
        return Sessions(Path(load.sessions), self._identity, load.model, self.runner.pool.unpack, self._send)

    def _limit(self, limits: wire.CacheLimits) -> None:
        self._kept.limit(limits)
        if self._sessions is not None:
            self._sessions.on = limits.enabled and limits.sessions > 0

    def obey(self, command: wire.Command) -> None:
        match command:
            case wire.Generate():
                try:
                    self._scheduler.add(self._intake.sequence(command))
                except CortexdError as error:
                    self._rejected.append(wire.Rejected(command.id, error.message, error.param, error.code))
            case wire.Cancel(id):
                self._scheduler.cancel(id)
            case wire.Ping(nonce):
                self._send(wire.Pong(nonce, self._scheduler.running, self._scheduler.waiting))
            case wire.Threads(count):
                self.runner.compute_with(count)
            case wire.StepTarget(seconds):
                self._scheduler.pace.target = seconds
            case wire.CacheLimits():
                self._limit(command)
            case wire.ForgetStates():
                self._recollections.clear_unowed()
                self._kept.forget()
            case wire.ForgetSession(tenant, name):
                self._forget(SessionKey(tenant, name))
            case wire.Park():
                self._recollections.settle(self.runner.run)
                self._scheduler.check_idle()
                self._kept.release()
                self._drawing.release()
                self.runner.park()
                self._intake.states.clear()
                self._send(wire.Parked())
            case wire.Resume():
                self.runner.resume(self._report_progress)
                self._send(self.facts)
            case wire.Suspend():
                self._suspend()
            case wire.Adopt():
                self._adopt(command)
            case wire.Shutdown():
                self._running = False
            case wire.Load():
                raise RuntimeError("a worker loads one model in its life")

    def step(self) -> None:
        began = monotonic()
        deltas: list[wire.Delta] = []
        crowded = bool(self._scheduler.waiting and not self.runner.pool.free)
        if crowded:
            self._recollections.give_way()
        chosen = self._scheduler.schedule()
        recalled = self._recollections.next_piece(
            chosen, self._scheduler.pace.room, prompts=self._scheduler.reading, waited_for=crowded
        )
        if chosen:
            self._answered = monotonic()
        if chosen or recalled is not None:
            pieces = self._scheduler.pieces(chosen) + ([] if recalled is None else [recalled])
            logits, rows = self.runner.run(pieces)
            self._scheduler.keep(chosen)
            if recalled is not None:
                self._recollections.keep()
            drawing = [chosen[row] for row in rows]
            samplers, slots = [sequence.sampler for sequence in drawing], [pieces[row].slot for row in rows]
            tokens = self._drawing.draw(logits, samplers, slots)
            for sequence, token in zip(drawing, tokens, strict=True):
                if (delta := self._accept(sequence, token)) is not None:
                    deltas.append(delta)
            self._scheduler.pace.note(pieces, monotonic() - began)
        self._tell(deltas)

    def _tell(self, deltas: list[wire.Delta]) -> None:
        if deltas or self._rejected:
            self._send(wire.Step(deltas, self._rejected))
            self._rejected = []

    def _forget(self, session: SessionKey) -> None:
        self._scheduler.forget(session)
        self._recollections.forget(session)
        if self._sessions is not None:
            self._sessions.forget(session)

    def _suspend(self) -> None:
        self._tell([])  # who has been refused is told so, not suspended
        for sequence, state in self._scheduler.take_out():
            saved = sequence.save(state.pack() if state is not None else b"")
            for part in wire.parts(msgspec.msgpack.encode(saved)):
                self._send(wire.Saved(sequence.id, part))
        self._send(wire.Suspended())

    def _adopt(self, adopt: wire.Adopt) -> None:
        parts = self._adopted.setdefault(adopt.id, bytearray())
        parts += adopt.part
        if not adopt.last:
            return
        try:
            saved = _decode_saved(self._adopted.pop(adopt.id))
            state = self.runner.pool.unpack(saved.state) if saved.state else None
            self._scheduler.add(Sequence.restored(adopt.id, saved, state, self._tokenizer))
        except (ValueError, msgspec.MsgspecError) as error:
            message = f"The answer cannot be gone on with: what was saved of it is damaged ({error})."
            self._rejected.append(wire.Rejected(adopt.id, message, code="model_error"))

    def _accept(self, sequence: Sequence, token: int | None) -> wire.Delta | None:
        if token is None:
            self._scheduler.finish(sequence)
            message = "The model computed no finite numbers for this prompt; its weights may be damaged."
            self._rejected.append(wire.Rejected(sequence.id, message, code="model_error"))
            return None
        delta = sequence.accept(token)
        if delta is not None and delta.finish is not None:
            self._scheduler.finish(sequence)
            self._recollections.add(sequence)
        return delta

    def _send(self, report: wire.Report) -> None:
        """From any thread."""
        with self._sending:
            self._sock.sendall(wire.encode(report))

    def _report_progress(self, done: int, total: int) -> None:
        now = monotonic()
        if now >= self._next_report or done == total:
            self._next_report = now + _PROGRESS_PERIOD
            self._send(wire.Progress(done, total))


def main(sock: socket.socket) -> None:
    """Serve one daemon over `sock`: the first command is Load, its answer Loaded or LoadRefused."""
    inbox = Inbox(sock)
    load = inbox.first()
    assert isinstance(load, wire.Load), "the first command says what to load"
    torch.set_num_threads(load.threads)
    try:
        worker = Worker(sock, inbox, load)
        sock.sendall(wire.encode(worker.facts))
        worker.run()
    except CortexdError as error:  # of this load, or of a later `Resume`
        sock.sendall(wire.encode(wire.LoadRefused(error.message)))
    except MemoryError:
        sock.sendall(wire.encode(wire.LoadRefused("There is not enough memory for this model on this machine.")))


_decode_saved = msgspec.msgpack.Decoder(SavedSequence).decode
