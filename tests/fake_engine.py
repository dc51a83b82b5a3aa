"""A stand-in for an engine, which follows a script; a token is a word."""

import asyncio
import re
from collections.abc import Callable

from cortexd.catalogue.spec import ModelSpec
from cortexd.engines.protocol import EngineFacts, EngineHost, GenerationRequest, LoadProgress, Suspension
from cortexd.errors import BadRequest, CortexdError, EngineDied, LoadFailed
from cortexd.wire import ChatPrompt, Delta, Prompt, TextPrompt, Usage

_PIECE = re.compile(r"\s*\S+\s*")


class Reply:
    """What a fake engine says to one prompt: a word a delta, then `error` or a finish."""

    def __init__(
        self,
        text: str = "",
        *,
        thought: str = "",
        error: Exception | None = None,
        endless: bool = False,
        gate: asyncio.Event | None = None,
        cached: int = 0,
    ) -> None:
        self.text = text
        self.thought = thought
        self.error = error
        self.endless = endless  # says `text` again and again
        self.gate = gate  # waited for before each delta
        self.cached = cached  # tokens of the prompt that need not be read
        self.then: Reply | None = None  # said in its place from the second time on


class Script:
    """How all engines of one model behave, through all its incarnations."""

    def __init__(self) -> None:
        self.replies: dict[str, Reply] = {}
        self.otherwise = Reply("Hello, dear world!")
        self.loading = asyncio.Event()  # a load ends only while this is set
        self.loading.set()
        self.load_error: str | None = None
        self.engines: list[FakeEngine] = []

    def reply_to(self, prompt: str) -> Reply:
        reply = self.replies.get(prompt, self.otherwise)
        if reply.then is not None:
            self.replies[prompt] = reply.then
        return reply

    @property
    def generations(self) -> list["FakeGeneration"]:
        return [generation for engine in self.engines for generation in engine.generations]


class FakeGeneration:
    """Implements `cortexd.engines.protocol.Generation`. A token is a word; a prompt has as many tokens as words."""

    def __init__(self, request: GenerationRequest, reply: Reply, died: asyncio.Event) -> None:
        self.request = request
        self.cancelled = False
        self.finished = False
        self.failure: CortexdError | None = None
        self._reply = reply
        self._died = died
        self._attached = asyncio.Event()  # not suspended
        self._attached.set()
        text, self._finish = _shortened(reply.text, request)
        self._thoughts = _PIECE.findall(reply.thought)
        self._words = _PIECE.findall(text)
        self.said = 0

    def __aiter__(self) -> "FakeGeneration":
        return self

    async def __anext__(self) -> Delta:
        await asyncio.sleep(0)
        if self._reply.gate is not None and not self.cancelled:
            await self._reply.gate.wait()
        await self._attached.wait()
        if self.cancelled or self.finished:
            raise StopAsyncIteration
        if self.failure is not None:
            raise self.failure
        if self._died.is_set():
            raise EngineDied
        said, self.said = self.said, self.said + 1
        if said < len(self._thoughts):
            return Delta(0, reasoning=self._thoughts[said])
        word = said - len(self._thoughts)
        if self._reply.endless:
            return Delta(0, self._words[word % len(self._words)])
        if word < len(self._words):
            return Delta(0, self._words[word])
        if self._reply.error is not None:
            raise self._reply.error
        self.finished = True
        prompt = len(prompt_text(self.request.prompt).split())
        usage = Usage(prompt, said, len(self._thoughts), self._reply.cached)
        return Delta(0, finish=self._finish, usage=usage)

    def cancel(self) -> None:
        self.cancelled = self.cancelled or not self.finished
        self._attached.set()

    def detach(self) -> None:
        self._attached.clear()

    def attach(self, died: asyncio.Event) -> None:
        self._died = died
        self._attached.set()

    def fail(self, error: CortexdError) -> None:
        self.failure = error
        self._attached.set()


class FakeSuspension:
    """Implements `cortexd.engines.protocol.Suspension`."""

    size = 1000  # bytes

    def __init__(self, generations: list[FakeGeneration]) -> None:
        self.generations = generations

    def fail(self, error: CortexdError) -> None:
        for generation in self.generations:
            generation.fail(error)


class FakeEngine:
    """Implements `cortexd.engines.protocol.Engine` by a script."""

    def __init__(self, spec: ModelSpec, script: Script) -> None:
        self.spec = spec
        self.generations: list[FakeGeneration] = []
        self.stopped = False
        self.parked = False
        self._script = script
        self._died = asyncio.Event()

    @classmethod
    def footprint(cls, spec: ModelSpec, host: EngineHost) -> dict[str, int]:
        return {"cpu": spec.size}

    @classmethod
    def problem(cls, spec: ModelSpec) -> str | None:
        return None

    async def start(self, report: Callable[[LoadProgress], None]) -> EngineFacts:
        report(LoadProgress("reading", 0.4))
        await self._script.loading.wait()
        if self._script.load_error is not None:
            raise LoadFailed(self._script.load_error)
        return EngineFacts(description="fake", context=1000, loaded_bytes=1_000_000, parks=True, suspends=True)

    async def probe(self) -> None:
        pass

    def generate(self, request: GenerationRequest) -> FakeGeneration:
        reply = self._script.reply_to(prompt_text(request.prompt))
        generation = FakeGeneration(request, reply, self._died)
        self.generations.append(generation)
        return generation

    async def park(self) -> None:
        self.parked = True

    async def resume(self, report: Callable[[LoadProgress], None]) -> EngineFacts:
        self.parked = False
        return await self.start(report)

    async def suspend(self) -> FakeSuspension:
        suspended = [generation for generation in self.generations if not (generation.cancelled or generation.finished)]
        for generation in suspended:
            self.generations.remove(generation)
            generation.detach()
        return FakeSuspension(suspended)

    def adopt(self, suspension: Suspension) -> None:
        assert isinstance(suspension, FakeSuspension), "only what an engine of this kind has saved"
        self.generations += suspension.generations
        for generation in suspension.generations:
            generation.attach(self._died)
        suspension.generations = []

    def pids(self) -> list[int]:
        return []

    async def ping(self) -> None:
        if self._died.is_set():
            raise EngineDied

    async def stop(self, grace: float) -> None:
        self.stopped = True
        self._died.set()

    async def ended(self) -> str:
        await self._died.wait()
        if self.stopped:
            await asyncio.get_running_loop().create_future()
        return "it was told to"

    def die(self) -> None:
        self._died.set()


def prompt_text(prompt: Prompt) -> str:
    """The last turn of a chat, a text, or token ids as decimal numbers."""
    if isinstance(prompt, ChatPrompt):
        return prompt.turns[-1].text
    if isinstance(prompt, TextPrompt):
        return prompt.text
    return " ".join(map(str, prompt.tokens))


def refusing(message: str, param: str | None = None) -> Reply:
    return Reply(error=BadRequest(message, param=param))


def failing(error: CortexdError, after: str = "") -> Reply:
    return Reply(after, error=error)


def _shortened(text: str, request: GenerationRequest) -> tuple[str, str]:
    """Up to the first stop string and no longer than max_tokens, with the finish that this means."""
    ends = [text.find(stop) for stop in request.stop if stop in text]
    if request.echo:
        text = prompt_text(request.prompt) + text
    if ends:
        return text[: min(ends)], "stop"
    words = _PIECE.findall(text)
    if request.max_tokens is not None and len(words) > request.max_tokens:
        return "".join(words[: request.max_tokens]), "length"
    return text, "stop"
