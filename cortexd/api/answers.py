"""The answers to one request while they are made."""

import asyncio
from collections.abc import Sequence

from cortexd.engines.protocol import Engine, Generation, GenerationRequest
from cortexd.wire import Delta, Finish, Usage

_AHEAD = 64  # deltas held for a client that reads slowly; more stay with the engine


class Answers:
    """Iterates over (index, delta) in the order in which deltas come, until each answer is finished."""

    def __init__(self, engine: Engine, requests: Sequence[GenerationRequest]) -> None:
        self._finished: dict[int, Delta] = {}
        self._prompts = [request.sampling.choice == 0 for request in requests]
        self._readers: list[asyncio.Task[None]] = []
        self._arrived: asyncio.Queue[tuple[int, Delta] | Exception] = asyncio.Queue(_AHEAD)
        self._generations: list[Generation] = []
        try:
            for request in requests:
                self._generations.append(engine.generate(request))
        except BaseException:
            self.cancel()
            raise
        if len(self._generations) > 1:
            self._readers = [
                asyncio.create_task(self._read(index, generation), name=f"answer {index}")
                for index, generation in enumerate(self._generations)
            ]

    def __aiter__(self) -> "Answers":
        return self

    async def __anext__(self) -> tuple[int, Delta]:
        """Raises what the engine raised for any of the answers."""
        if len(self._finished) == len(self._generations):
            raise StopAsyncIteration
        index, delta = await self._next()
        if delta.finish is not None:
            self._finished[index] = delta
        return index, delta

    def cancel(self) -> None:
        """Give up whatever is not finished; harmless when repeated."""
        for generation in self._generations:
            generation.cancel()
        for reader in self._readers:
            reader.cancel()

    @property
    def finish(self) -> Finish | None:
        """Why the first answer ended, once it has."""
        return self._finished[0].finish if 0 in self._finished else None

    def usage(self) -> Usage:
        """Of all answers finished so far. A prompt counts once, however many answers there are to it."""
        ends = [(index, end.usage) for index, end in self._finished.items() if end.usage is not None]
        return Usage(
            prompt_tokens=sum(usage.prompt_tokens for index, usage in ends if self._prompts[index]),
            completion_tokens=sum(usage.completion_tokens for _, usage in ends),
            reasoning_tokens=sum(usage.reasoning_tokens for _, usage in ends),
            cached_tokens=sum(usage.cached_tokens for index, usage in ends if self._prompts[index]),
        )

    async def _next(self) -> tuple[int, Delta]:
        if not self._readers:  # the usual case: one answer, and no task between it and the client
            return 0, await _delta_of(self._generations[0])
        arrived = await self._arrived.get()
        if isinstance(arrived, Exception):
            raise arrived
        return arrived

    async def _read(self, index: int, generation: Generation) -> None:
        try:
            while True:
                delta = await _delta_of(generation)
                await self._arrived.put((index, delta))
                if delta.finish is not None:
                    return
        except Exception as error:
            await self._arrived.put(error)


async def _delta_of(generation: Generation) -> Delta:
    try:
        return await anext(generation)
    except StopAsyncIteration:
        raise RuntimeError("An engine ended an answer without a finish.") from None
