"""What a client of the OpenAI routes may send. A range is declared here and nowhere else.

Fields that other servers know and this one ignores are not declared: a client is told of them in `x-cortexd-ignored`.
"""

from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import Meta

Role = Literal["system", "developer", "user", "assistant", "tool", "function"]
AdminPriority = Literal["admin", "preload"]
ReasoningEffort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]

LONGEST_SESSION = 128  # characters of its name
LONGEST_KEEP_ALIVE = 366 * 86400  # seconds; whoever wants more wants -1

Count = Annotated[int, Meta(ge=1, le=2**31)]
TokenId = Annotated[int, Meta(ge=0, le=2**32 - 1)]
Share = Annotated[float, Meta(ge=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Decay = Annotated[float, Meta(ge=0.9, le=1)]
Bias = Annotated[float, Meta(ge=-100, le=100)]
BiasKey = Annotated[str, Meta(pattern="^[0-9]{1,9}$")]
KeepAlive = Annotated[float, Meta(le=LONGEST_KEEP_ALIVE)] | Annotated[str, Meta(max_length=64)]
StopString = Annotated[str, Meta(min_length=1, max_length=256)]
Stop = StopString | Annotated[list[StopString], Meta(max_length=16)]

MOST_ANSWERS = 128  # of one request: prompts times `n`

CHOICES: dict[str, tuple[str, ...]] = {
    "role": get_args(Role),
    "reasoning_effort": get_args(ReasoningEffort),
    "priority": get_args(AdminPriority),
}
"""What may stand in a field, for the sentence that refuses something else."""

ASKS_NOTHING: dict[str, tuple[Any, ...]] = {
    "audio": (None,),
    "function_call": (None, "none", "auto"),
    "functions": (None, []),
    "logprobs": (None, False, 0),
    "modalities": (None, ["text"]),
    "prediction": (None,),
    "repetition_penalty": (None, 1),
    "response_format": (None, {"type": "text"}),
    "suffix": (None, ""),
    "tool_choice": (None, "none", "auto"),
    "tools": (None, []),
    "top_logprobs": (None, 0),
    "web_search_options": (None,),
}
"""Fields not supported yet, which would change the answer, and the values with which they do not."""


class ContentPart(msgspec.Struct, frozen=True):
    type: str
    text: str | None = None


class ToolCalls(msgspec.Struct, frozen=True):
    """A call in the history of a chat: seen, so that it can be refused."""


class Message(msgspec.Struct, frozen=True):
    role: Role
    content: str | list[ContentPart] | None = None
    tool_calls: list[ToolCalls] | None = None
    function_call: ToolCalls | None = None


class StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool | None = None


class SamplingFields(msgspec.Struct, frozen=True, kw_only=True):
    """What both kinds of request have in common."""

    model: Annotated[str, Meta(max_length=256)]
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Share | None = None
    top_k: Annotated[int, Meta(ge=-1, le=2**31)] | None = None
    min_p: Share | None = None
    n: Annotated[int, Meta(ge=1, le=16)] | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: Stop | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    penalty_decay: Decay | None = None
    alpha_presence: Penalty | None = None
    alpha_frequency: Penalty | None = None
    alpha_decay: Decay | None = None
    logit_bias: Annotated[dict[BiasKey, Bias], Meta(max_length=1024)] | None = None
    keep_alive: KeepAlive | None = None  # seconds or a duration; negative: for ever
    state: Annotated[str, Meta(max_length=256)] | None = None  # to start from: a name or name@version; "": none
    priority: Annotated[int, Meta(ge=-100, le=100)] | None = (
        None  # among the requests to this model; the higher, the sooner
    )
    session: Annotated[str, Meta(max_length=LONGEST_SESSION)] | None = None  # that this is a turn of; "": none
    user: str | None = None
    metadata: dict[str, str] | None = None


class ChatRequest(SamplingFields, frozen=True, kw_only=True):
    """Body of `POST /v1/chat/completions`."""

    messages: Annotated[list[Message], Meta(min_length=1, max_length=4096)]
    reasoning_effort: ReasoningEffort | None = None


class CompletionRequest(SamplingFields, frozen=True, kw_only=True):
    """Body of `POST /v1/completions`. A list of prompts is all strings, all token ids, or all lists of token ids."""

    prompt: str | Annotated[list[str | TokenId | list[TokenId]], Meta(min_length=1)]
    echo: bool | None = None
    best_of: Annotated[int, Meta(ge=1, le=20)] | None = None
