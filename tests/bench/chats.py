"""Chats with any OpenAI server, each timed by its client."""

import json
import random
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import httpx

QUESTION = 22  # words; with all that is around them about 32 tokens

# One token each, with the blank before it, in nearly every vocabulary.
WORDS = ("the", "of", "and", "to", "in", "is", "that", "it", "was", "for", "on", "are", "with", "as", "he", "they")
# So that answers have their full length. Servers differ in what they take; a longer list is tried before a shorter one.
_ENDLESS: tuple[dict[str, Any], ...] = (
    {"ignore_eos": True, "logit_bias": {"0": -100}},
    {"ignore_eos": True},
    {"logit_bias": {"0": -100}},
    {},
)

Message = dict[str, str]


class Refused(Exception):
    """The server did not take the request."""


@dataclass(frozen=True)
class Server:
    """`endless` are the options by which its answers have their full length."""

    client: httpx.AsyncClient
    model: str
    endless: dict[str, Any]


@dataclass
class Answer:
    """Of one streamed chat; seconds on the clock of `perf_counter`."""

    start: float
    first: float = 0.0
    last: float = 0.0
    text: str = ""
    tokens: int = 0
    prompt_tokens: int = 0
    cached: int = 0

    @property
    def to_first(self) -> float:
        return self.first - self.start

    @property
    def read(self) -> int:
        """Tokens of the prompt that were not found in a state."""
        return self.prompt_tokens - self.cached


def ours(client: httpx.AsyncClient, model: str) -> Server:
    return Server(client, model, _ENDLESS[0])


async def greeted(client: httpx.AsyncClient, model: str) -> Server:
    """The server with its model loaded, and with the options that it was seen to take."""
    for endless in _ENDLESS:
        server = Server(client, model, endless)
        try:
            await chat(server, [asked("hello")], 1)
        except Refused:
            if not endless:
                raise
        else:
            return server
    raise AssertionError("the last of them has no options")


def asked(text: str) -> Message:
    return {"role": "user", "content": text}


def answered(answer: Answer) -> Message:
    return {"role": "assistant", "content": answer.text}


def text_of(dice: random.Random, words: int) -> str:
    """So many words, the first a number that no other text begins with: no cache of prefixes can help."""
    return " ".join([str(dice.randrange(10**8, 10**9)), *dice.choices(WORDS, k=words)])


async def chat(server: Server, messages: list[Message], tokens: int, **fields: Any) -> Answer:
    """Raises Refused, and RuntimeError where the stream tells of an error or not of its usage."""
    answer, usage = Answer(perf_counter()), None
    async for at, event in events(server, messages, tokens, **fields):
        if text := _text_in(event):
            answer.first = answer.first or at
            answer.last = at
            answer.text += text
        usage = event.get("usage") or usage
    if usage is None:
        raise RuntimeError(
            f"{server.client.base_url} does not tell the usage of a stream: its tokens cannot be counted"
        )
    # A single token may be half a character, which is no text.
    answer.first = answer.first or perf_counter()
    answer.last = answer.last or answer.first
    answer.tokens, answer.prompt_tokens = usage["completion_tokens"], usage["prompt_tokens"]
    answer.cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    return answer


async def events(
    server: Server, messages: list[Message], tokens: int, **fields: Any
) -> AsyncGenerator[tuple[float, dict[str, Any]]]:
    """What a streamed chat consists of, each with the time at which it came."""
    body: dict[str, Any] = {
        "model": server.model,
        "messages": messages,
        "max_tokens": tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        **server.endless,
        **fields,
    }
    async with server.client.stream("POST", "/v1/chat/completions", json=body) as response:
        if response.is_error:
            raise Refused(f"{response.url} answered {response.status_code}: {(await response.aread()).decode()}")
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            at, event = perf_counter(), json.loads(line.removeprefix("data: "))
            if "error" in event:
                raise RuntimeError(f"{response.url}: {event['error']}")
            yield at, event


def _text_in(event: dict[str, Any]) -> str:
    deltas = [choice.get("delta") or {} for choice in event["choices"]]
    return "".join(delta.get("content") or delta.get("reasoning_content") or "" for delta in deltas)
