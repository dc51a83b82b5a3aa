"""The contract between the daemon and whatever computes a model. Implementations add nothing to it."""

from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Protocol

import msgspec

from cortexd.catalogue.spec import ModelSpec
from cortexd.engines.cores import Cores
from cortexd.engines.fork_server import ForkServer
from cortexd.engines.kept_states import KeptStates
from cortexd.engines.sessions import Sessions
from cortexd.engines.tempo import Tempo
from cortexd.errors import CortexdError
from cortexd.wire import Delta, InitialState, Prompt, Sampling


class LoadProgress(msgspec.Struct, frozen=True):
    """How far a load has come: `fraction` of its bytes, 0 to 1, never falling within a phase."""

    phase: str
    fraction: float


class EngineFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a model once it is loaded."""

    description: str  # e.g. "RWKV-7, 12 x 768, cpu bf16"
    context: int  # most prompt tokens
    loaded_bytes: int
    thinks: bool = False
    parks: bool = False  # `park` and `resume` work
    parked_bytes: int = 0  # of the host's memory, that a parked engine still holds
    suspends: bool = False  # `suspend` and `adopt` work
    notices: list[str] = []  # what is not as it was asked for, in one sentence each, without its full stop


class GenerationRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One answer to be generated."""

    prompt: Prompt
    sampling: Sampling
    max_tokens: int | None = None
    stop: list[str] = []
    echo: bool = False
    state: InitialState | None = None  # that it starts from
    priority: int = 0  # the higher, the sooner
    session: str = ""  # that this is a turn of; "": none
    tenant: str = ""  # whose it is: what was read for one is not found by another


class Generation(Protocol):
    """One answer in the making: iterate to the delta that carries `finish`, or cancel."""

    def __aiter__(self) -> AsyncIterator[Delta]: ...

    async def __anext__(self) -> Delta:
        """The next piece; nothing is lost if this is cancelled.

        Raises BadRequest where the model refuses the request, QueueFull where too many wait, EngineDied where the engine ended.
        """
        ...

    def cancel(self) -> None:
        """Give the answer up, at once and without waiting; harmless after the end and when repeated."""
        ...


class Suspension(Protocol):
    """Generations taken out of an engine: they wait, and yield nothing, until another engine adopts them or they fail."""

    @property
    def size(self) -> int:
        """Bytes it holds of the daemon's memory."""
        ...

    def fail(self, error: CortexdError) -> None:
        """End every generation it carries with this error; harmless when repeated or adopted."""
        ...


class Engine(Protocol):
    """How one model computes. An engine object lives through one load: it is started once and stopped once."""

    @classmethod
    def footprint(cls, spec: ModelSpec, host: "EngineHost") -> dict[str, int]:
        """Bytes by device that a load of `spec` will need, from what the catalogue knows; a device not named needs none."""
        ...

    @classmethod
    def problem(cls, spec: ModelSpec) -> str | None:
        """Why no load of `spec` can succeed, in one sentence, as far as the spec alone says so; None where nothing does."""
        ...

    async def start(self, report: Callable[[LoadProgress], None]) -> EngineFacts:
        """Load the model. Raises LoadFailed with one sentence for the client. If cancelled, `stop` cleans up."""
        ...

    async def probe(self) -> None:
        """Make one real token; raises LoadFailed if none comes."""
        ...

    def generate(self, request: GenerationRequest) -> Generation:
        """Start an answer. Returns at once; the engine queues what it cannot run yet."""
        ...

    async def park(self) -> None:
        """Give the device's memory back; returns when that is done. Called while nothing runs; pings are answered as ever.

        Raises EngineDied. An engine whose facts do not say `parks` is never asked.
        """
        ...

    async def resume(self, report: Callable[[LoadProgress], None]) -> EngineFacts:
        """From parked back to a state in which `generate` works; raises what `start` does."""
        ...

    async def suspend(self) -> Suspension:
        """Save every generation and take it out of this engine, which may then be stopped without ending them.

        Raises EngineDied, which they are told too. An engine whose facts do not say `suspends` is never asked.
        """
        ...

    def adopt(self, suspension: Suspension) -> None:
        """Go on with the generations that another engine of the same spec saved: nothing is lost or said twice.

        Returns at once; each suspension is adopted once at most.
        """
        ...

    def pids(self) -> list[int]:
        """Its processes, to be measured; none before the start and after the end."""
        ...

    async def ping(self) -> None:
        """Returns when the computing loop itself has answered; raises EngineDied if it has ended."""
        ...

    async def stop(self, grace: float) -> None:
        """End whatever runs and free everything, after `grace` seconds by force. Never raises; works in every state."""
        ...

    async def ended(self) -> str:
        """Returns when the engine has ended by itself, with the reason as a phrase ("killed by signal 9").

        Never returns after `stop`.
        """
        ...


class EngineHost(Protocol):
    """What the daemon offers to its engines."""

    @property
    def cores(self) -> Cores:
        """What engines that compute on the CPU share."""
        ...

    @property
    def gpus(self) -> Mapping[str, int]:
        """Bytes that models may hold of each GPU, `cuda:N`, on which this installation can compute."""
        ...

    @property
    def prefill_budget(self) -> int:
        """Most prompt tokens that one step may carry beside the running streams."""
        ...

    @property
    def tempo(self) -> Tempo:
        """How long a step should take at most that carries running streams."""
        ...

    @property
    def queue_limit(self) -> int:
        """Answers that may wait in an engine, beyond those that it computes at the same time."""
        ...

    @property
    def cache(self) -> Path | None:
        """Where engines may keep what they would otherwise compute at each load; None: nowhere."""
        ...

    @property
    def states(self) -> KeptStates:
        """How much of what they have read engines may keep, and where."""
        ...

    @property
    def sessions(self) -> Sessions:
        """What engines keep of chats beyond their own life."""
        ...

    @property
    def fork_server(self) -> ForkServer:
        """Where worker processes come from."""
        ...


class EngineFactory(Protocol):
    """What an entry point of group `cortexd.engines` names: the class of an engine, or what can stand for it."""

    def __call__(self, spec: ModelSpec, host: EngineHost) -> Engine: ...

    def footprint(self, spec: ModelSpec, host: EngineHost) -> dict[str, int]:
        """That of the engine's class."""
        ...

    def problem(self, spec: ModelSpec) -> str | None:
        """That of the engine's class."""
        ...
