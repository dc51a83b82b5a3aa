"""What the tests of our own engine ask of it."""

import contextlib
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from types import MappingProxyType

from cortexd.catalogue.spec import ModelSpec
from cortexd.engines.cores import Cores
from cortexd.engines.fork_server import ForkServer
from cortexd.engines.kept_states import KeptStates
from cortexd.engines.protocol import Generation, GenerationRequest
from cortexd.engines.rwkv import RwkvEngine
from cortexd.engines.sessions import Sessions
from cortexd.engines.tempo import Tempo
from cortexd.events import Event
from cortexd.wire import CacheLimits, Delta, Sampling, TextPrompt

NEVER_ENDING = {0: -100.0}  # id 0 ends a text


class Host:
    """Implements `cortexd.engines.protocol.EngineHost`."""

    prefill_budget = 256
    queue_limit = 1024
    gpus: Mapping[str, int] = MappingProxyType({})

    def __init__(self, fork_server: ForkServer, cache: Path | None = None) -> None:
        self.cores = Cores(1)
        self.tempo = Tempo(0.05)
        self.events: list[Event] = []
        self.sessions = Sessions(cache / "sessions" if cache is not None else None, self.events.append)
        self.fork_server = fork_server
        self.cache = cache
        self.states = KeptStates(CacheLimits(), cache / "states" if cache is not None else None)


def spec_of(path: Path, **changes: object) -> ModelSpec:
    return ModelSpec(name=path.stem, source="file", path=str(path), **changes)


@contextlib.asynccontextmanager
async def started(spec: ModelSpec, host: Host) -> AsyncGenerator[RwkvEngine]:
    engine = RwkvEngine(spec, host)
    await engine.start(lambda progress: None)
    try:
        yield engine
    finally:
        await engine.stop(5.0)


def ask(text: str, tokens: int, seed: int = 1, **sampling: object) -> GenerationRequest:
    drawn = Sampling(seed=seed, logit_bias=NEVER_ENDING, **sampling)
    return GenerationRequest(prompt=TextPrompt(text), sampling=drawn, max_tokens=tokens)


async def collect(engine: RwkvEngine, request: GenerationRequest) -> tuple[str, Delta]:
    text, last = "", Delta(0)
    async for last in engine.generate(request):
        text += last.text
    return text, last


async def exhaust(generation: Generation) -> None:
    """Until it raises."""
    while True:
        await anext(generation)
