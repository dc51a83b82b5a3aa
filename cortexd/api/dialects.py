"""How answers are worded: the chunks and objects of the OpenAI routes. One dialect serves one request."""

import secrets
from collections.abc import Sequence
from typing import Any, Literal, Protocol

import msgspec
from msgspec import UNSET, UnsetType

from cortexd.wire import Delta, Finish, Usage


class Heading(msgspec.Struct, frozen=True):
    """What all chunks of one response repeat."""

    created: int
    model: str
    fingerprint: str
    usage_asked: bool  # of a stream: whether its last chunk shall tell the usage


class Written:
    """One answer as it grows."""

    def __init__(self) -> None:
        self.finish: Finish | None = None
        self._texts: list[str] = []
        self._reasonings: list[str] = []

    def add(self, delta: Delta) -> None:
        self._texts.append(delta.text)
        self._reasonings.append(delta.reasoning)
        self.finish = delta.finish

    @property
    def text(self) -> str:
        return "".join(self._texts)

    @property
    def reasoning(self) -> str:
        return "".join(self._reasonings)


class CompletionTokens(msgspec.Struct, frozen=True):
    reasoning_tokens: int


class PromptTokens(msgspec.Struct, frozen=True):
    cached_tokens: int


class UsageReport(msgspec.Struct, frozen=True):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokens
    completion_tokens_details: CompletionTokens


class ChatDelta(msgspec.Struct, frozen=True):
    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET


class ChatChunkChoice(msgspec.Struct, frozen=True):
    index: int
    delta: ChatDelta
    logprobs: None = None
    finish_reason: Finish | None = None


class ChatMessage(msgspec.Struct, frozen=True):
    content: str
    reasoning_content: str | UnsetType = UNSET
    role: Literal["assistant"] = "assistant"
    refusal: None = None


class ChatChoice(msgspec.Struct, frozen=True):
    index: int
    message: ChatMessage
    finish_reason: Finish | None
    logprobs: None = None


class TextChoice(msgspec.Struct, frozen=True):
    index: int
    text: str
    finish_reason: Finish | None = None
    logprobs: None = None


class Response(msgspec.Struct, frozen=True, kw_only=True):
    """A chunk of a stream or a whole answer; they differ in their choices and in `object`."""

    id: str
    object: str
    created: int
    model: str
    system_fingerprint: str
    choices: Sequence[ChatChunkChoice | ChatChoice | TextChoice]
    usage: UsageReport | UnsetType | None = UNSET


class Dialect(Protocol):
    def __init__(self, heading: Heading) -> None: ...

    def chunks(self, index: int, delta: Delta) -> list[Response]:
        """What one step tells the client; nothing where it brought nothing that can be seen."""
        ...

    def usage_chunk(self, usage: Usage) -> Response: ...

    def whole(self, answers: Sequence[Written], usage: Usage) -> Response: ...


class _Worded:
    """What the dialects have in common."""

    prefix: str
    object: str
    chunk_object: str

    def __init__(self, heading: Heading) -> None:
        self._heading = heading
        self._id = f"{self.prefix}-{secrets.token_hex(12)}"

    def usage_chunk(self, usage: Usage) -> Response:
        return self._response(self.chunk_object, [], _report(usage))

    def _chunk(self, choice: ChatChunkChoice | TextChoice) -> Response:
        return self._response(self.chunk_object, [choice], None if self._heading.usage_asked else UNSET)

    def _response(self, object: str, choices: Sequence[Any], usage: UsageReport | UnsetType | None) -> Response:
        heading = self._heading
        return Response(
            id=self._id,
            object=object,
            created=heading.created,
            model=heading.model,
            system_fingerprint=heading.fingerprint,
            choices=choices,
            usage=usage,
        )


class ChatDialect(_Worded):
    """Of `/v1/chat/completions`."""

    prefix = "chatcmpl"
    object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def __init__(self, heading: Heading) -> None:
        super().__init__(heading)
        self._begun: set[int] = set()

    def chunks(self, index: int, delta: Delta) -> list[Response]:
        said: list[ChatDelta] = []
        if index not in self._begun:
            self._begun.add(index)
            said.append(ChatDelta(role="assistant", content=""))
        if delta.reasoning:
            said.append(ChatDelta(reasoning_content=delta.reasoning))
        if delta.text:
            said.append(ChatDelta(content=delta.text))
        choices = [ChatChunkChoice(index, each) for each in said]
        if delta.finish is not None:
            choices.append(ChatChunkChoice(index, ChatDelta(), finish_reason=delta.finish))
        return [self._chunk(choice) for choice in choices]

    def whole(self, answers: Sequence[Written], usage: Usage) -> Response:
        choices = [
            ChatChoice(index, ChatMessage(answer.text, answer.reasoning or UNSET), answer.finish)
            for index, answer in enumerate(answers)
        ]
        return self._response(self.object, choices, _report(usage))


class TextDialect(_Worded):
    """Of `/v1/completions`."""

    prefix = "cmpl"
    object = "text_completion"
    chunk_object = "text_completion"

    def chunks(self, index: int, delta: Delta) -> list[Response]:
        if not delta.text and delta.finish is None:
            return []
        return [self._chunk(TextChoice(index, delta.text, delta.finish))]

    def whole(self, answers: Sequence[Written], usage: Usage) -> Response:
        choices = [TextChoice(index, answer.text, answer.finish) for index, answer in enumerate(answers)]
        return self._response(self.object, choices, _report(usage))


def _report(usage: Usage) -> UsageReport:
    return UsageReport(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        total_tokens=usage.prompt_tokens + usage.completion_tokens,
        prompt_tokens_details=PromptTokens(usage.cached_tokens),
        completion_tokens_details=CompletionTokens(usage.reasoning_tokens),
    )
