"""The messages between daemon and worker process, and their framing.

A frame is a little-endian uint32 length and that many bytes of msgpack. The daemon sends a `Command`, the worker a
`Report`; both are tagged unions, so an unknown or malformed message is an error at the border, not behind it.
"""

import struct
from collections.abc import Callable
from typing import Literal

import msgspec

Finish = Literal["stop", "length"]
Effort = Literal["none", "low", "medium", "high"]

STRATEGIES = ("auto", "cpu fp32", "cpu bf16", "cpu fp16", "cpu int8", "cpu int4")  # that a worker runs
TEMPLATES = ("auto", "chat", "think", "fast")  # that it writes prompts by

MAX_FRAME = 64 * 2**20  # bytes; a longer frame means that the stream is out of step
SAVED_PART = 16 * 2**20  # bytes of a saved sequence in one frame
_LENGTH = struct.Struct("<I")


def one_of(names: tuple[str, ...]) -> str:
    """'auto', 'chat' or 'fast'"""
    return f"{', '.join(map(repr, names[:-1]))} or {names[-1]!r}"


class Turn(msgspec.Struct, frozen=True):
    """One message of a chat, its content already plain text."""

    role: Literal["system", "user", "assistant", "tool"]
    text: str


class ChatPrompt(msgspec.Struct, frozen=True, tag="chat"):
    """Turns to be rendered by the model's template; `effort` None leaves thinking to the model's default."""

    turns: list[Turn]
    effort: Effort | None = None


class TextPrompt(msgspec.Struct, frozen=True, tag="text"):
    """A text to be continued as it stands."""

    text: str


class TokenPrompt(msgspec.Struct, frozen=True, tag="tokens"):
    """Token ids to be continued as they stand."""

    tokens: list[int]


Prompt = ChatPrompt | TextPrompt | TokenPrompt


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """How the next token is drawn.

    `order` "openai" is temperature, then top_k, top_p, min_p; "rwkv" is top_p and top_k at temperature 1, then temperature.
    Penalties count generated tokens only; each step multiplies the counts by `penalty_decay`.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0: no limit
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    penalty_decay: float = 1.0
    logit_bias: dict[int, float] = {}
    order: Literal["openai", "rwkv"] = "openai"
    seed: int = 0  # uint64
    choice: int = 0  # which of the request's `n` answers: gives each its own random stream


class CacheLimits(msgspec.Struct, frozen=True, kw_only=True, tag="cache_limits"):
    """How much may be kept of what was read, from the next step on: bytes of this worker's memory, and of the disk for all; of
    sessions whether any, for the daemon sees to the rest.

    Unless `enabled`, nothing is looked up nor kept; what is on the disk stays there.
    """

    host: int = 0
    disk: int = 0
    sessions: int = 0
    enabled: bool = True


class ForgetStates(msgspec.Struct, frozen=True, tag="forget_states"):
    """Drop all that is kept of what was read, on the disk too."""


class ForgetSession(msgspec.Struct, frozen=True, tag="forget_session"):
    """It was removed: nothing that is known of it by now may be kept."""

    tenant: str
    name: str


class Load(msgspec.Struct, frozen=True, kw_only=True, tag="load"):
    """Open this checkpoint and get ready; sent once, first."""

    path: str
    strategy: str = "auto"
    template: str = "auto"
    threads: int = 1
    slots: int = 32
    context: int = 32768  # most prompt tokens
    prefill_budget: int = 256  # most prompt tokens in one step
    step_target: float = 0.0  # seconds, of a step with running streams; 0: as long as it takes
    cache: str = ""  # directory for prepared weights; "": none
    states: str = ""  # directory for states; "": none is kept on the disk
    sessions: str = ""  # directory for sessions; "": none is kept
    model: str = ""  # as people call it
    kept: CacheLimits = CacheLimits()


class InitialState(msgspec.Struct, frozen=True):
    """A state-tuned initial state: its file, and the SHA-256 of what is in it, which is its name."""

    path: str
    hash: str


class Generate(msgspec.Struct, frozen=True, kw_only=True, tag="generate"):
    """Start one sequence; `id` is unique for the life of the worker."""

    id: int
    prompt: Prompt
    sampling: Sampling
    max_tokens: int | None = None  # None: until the model stops or its context is full
    stop: list[str] = []
    echo: bool = False
    state: InitialState | None = None  # None: it begins from nothing
    tenant: str = ""  # who asks: what was read for one is not found by another
    priority: int = 0  # the higher, the sooner
    session: str = ""  # of the tenant's, that this is a turn of; "": none


class Cancel(msgspec.Struct, frozen=True, tag="cancel"):
    id: int


class Ping(msgspec.Struct, frozen=True, tag="ping"):
    nonce: int


class Threads(msgspec.Struct, frozen=True, tag="threads"):
    """Compute with so many threads from the next step on."""

    count: int


class StepTarget(msgspec.Struct, frozen=True, tag="step_target"):
    """From now on a step with running streams should take at most so many seconds; 0: as long as it likes."""

    seconds: float


class Park(msgspec.Struct, frozen=True, tag="park"):
    """Hold neither weights nor states until `Resume`, while nothing is to be generated; answered by `Parked`."""


class Resume(msgspec.Struct, frozen=True, tag="resume"):
    """Load what was parked; answered as `Load` is."""


class Suspend(msgspec.Struct, frozen=True, tag="suspend"):
    """Save every sequence and forget it; answered by the parts of each, then `Suspended`."""


class Adopt(msgspec.Struct, frozen=True, tag="adopt"):
    """A part of a sequence that another worker saved: with the last of them it goes on, as `id` from now on."""

    id: int
    part: bytes
    last: bool


class Shutdown(msgspec.Struct, frozen=True, tag="shutdown"):
    """Leave at once: what is still running is given up."""


Command = (
    Load
    | Generate
    | Cancel
    | Ping
    | Threads
    | StepTarget
    | Park
    | Resume
    | Suspend
    | Adopt
    | CacheLimits
    | ForgetStates
    | ForgetSession
    | Shutdown
)


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """Loading goes on; `done` of `total` bytes of weights."""

    done: int
    total: int


class Loaded(msgspec.Struct, frozen=True, kw_only=True, tag="loaded"):
    """The model is ready to generate."""

    version: str
    layers: int
    width: int
    vocabulary: int
    context: int
    slots: int
    weight_bytes: int
    strategy: str
    thinks: bool
    notices: list[str] = []  # what is not as it was asked for, in one sentence each


class LoadRefused(msgspec.Struct, frozen=True, tag="load_refused"):
    """The checkpoint cannot be loaded: one sentence for the client. The worker ends after it."""

    message: str


class Usage(msgspec.Struct, frozen=True, array_like=True):
    prompt_tokens: int
    completion_tokens: int
    reasoning_tokens: int = 0
    cached_tokens: int = 0  # of the prompt, that did not have to be read again


class Delta(msgspec.Struct, frozen=True, array_like=True):
    """What one step brought for one sequence. The last delta carries `finish` and `usage`."""

    id: int
    text: str = ""
    reasoning: str = ""
    finish: Finish | None = None
    usage: Usage | None = None


class Rejected(msgspec.Struct, frozen=True, array_like=True):
    """The sequence is not run, or not to its end: one sentence, and the field of the request that is wrong.

    `code` is that of an error in cortexd.errors; "model_error" where the model is at fault, not the client.
    """

    id: int
    message: str
    param: str | None = None
    code: str = "invalid_value"


class Step(msgspec.Struct, frozen=True, tag="step"):
    """All that one step of the loop brought, for all sequences."""

    deltas: list[Delta]
    rejected: list[Rejected] = []


class Pong(msgspec.Struct, frozen=True, tag="pong"):
    """Answered by the loop itself between two steps, so that a worker which hangs does not answer."""

    nonce: int
    running: int
    waiting: int


class Parked(msgspec.Struct, frozen=True, tag="parked"):
    """Weights and states are given back."""


class Saved(msgspec.Struct, frozen=True, tag="saved"):
    """A part of a saved sequence, in order; only a worker of the same model can read it."""

    id: int
    part: bytes


class Suspended(msgspec.Struct, frozen=True, tag="suspended"):
    """Every sequence has been saved."""


class SessionKept(msgspec.Struct, frozen=True, tag="session_kept"):
    """What a turn has left is on the disk; or not, and `problem` says why."""

    tenant: str
    name: str
    problem: str = ""


Report = Progress | Loaded | LoadRefused | Step | Pong | Parked | Saved | Suspended | SessionKept


class Fork(msgspec.Struct, frozen=True, tag="fork"):
    """To the fork server: make a worker for the socket that comes with this packet."""

    ticket: int


class Forked(msgspec.Struct, frozen=True, tag="forked"):
    ticket: int
    pid: int


class Reaped(msgspec.Struct, frozen=True, tag="reaped"):
    """A child has ended, with this wait status."""

    pid: int
    status: int


_encoder = msgspec.msgpack.Encoder()
decode_command: Callable[[bytes], Command] = msgspec.msgpack.Decoder(Command).decode
decode_report: Callable[[bytes], Report] = msgspec.msgpack.Decoder(Report).decode
decode_fork: Callable[[bytes], Fork] = msgspec.msgpack.Decoder(Fork).decode
decode_fork_report: Callable[[bytes], Forked | Reaped] = msgspec.msgpack.Decoder(Forked | Reaped).decode
encode_packet = _encoder.encode


def encode(message: Command | Report) -> bytes:
    """The message as one frame."""
    body = _encoder.encode(message)
    return _LENGTH.pack(len(body)) + body


def parts(data: bytes) -> list[bytes]:
    """A saved sequence in pieces that fit into frames; at least one."""
    return [data[i : i + SAVED_PART] for i in range(0, len(data), SAVED_PART)] or [b""]


class FrameReader:
    """Cuts a byte stream back into frames, whatever pieces it arrives in."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Bodies of all frames complete so far; raises ValueError on an impossible length."""
        self._buffer += data
        frames: list[bytes] = []
        start = 0
        while len(self._buffer) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer, start)
            if length > MAX_FRAME:
                raise ValueError(f"a frame of {length} bytes exceeds the limit of {MAX_FRAME}")
            end = start + _LENGTH.size + length
            if len(self._buffer) < end:
                break
            frames.append(bytes(self._buffer[start + _LENGTH.size : end]))
            start = end
        del self._buffer[:start]
        return frames
