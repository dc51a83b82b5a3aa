"""From what a client asked to what an engine is asked: defaults filled in, names of others turned into ours."""

import math
import secrets
from typing import TypeVar

from cortexd.api.schema import (
    LONGEST_KEEP_ALIVE,
    MOST_ANSWERS,
    ChatRequest,
    CompletionRequest,
    Message,
    ReasoningEffort,
    SamplingFields,
)
from cortexd.catalogue.spec import ModelSpec
from cortexd.durations import seconds_of
from cortexd.engines.protocol import GenerationRequest
from cortexd.errors import BadRequest
from cortexd.wire import ChatPrompt, Effort, InitialState, Prompt, Sampling, TextPrompt, TokenPrompt, Turn

T = TypeVar("T")

_EFFORTS: dict[ReasoningEffort, Effort] = {
    "none": "none",
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "high",
}
_SEEDS = 2**64


def generation_requests(
    request: ChatRequest | CompletionRequest,
    spec: ModelSpec,
    state: InitialState | None = None,
    session: str = "",
) -> list[GenerationRequest]:
    """One for each answer, those to the first prompt first, all of them from `state`; the first goes on in `session`. Raises
    BadRequest.
    """
    _check_options(request)
    prompts = prompts_of(request)
    choices = 1 if request.n is None else request.n
    if len(prompts) * choices > MOST_ANSWERS:
        raise BadRequest(
            f"{len(prompts)} prompts times n = {choices} are more than {MOST_ANSWERS} answers; send fewer at once.",
            param="prompt",
        )
    max_tokens = _max_tokens(request, spec)
    seed = secrets.randbits(64) if request.seed is None else request.seed % _SEEDS
    stop = [request.stop] if isinstance(request.stop, str) else request.stop or []
    return [
        GenerationRequest(
            prompt=prompt,
            sampling=_sampling(request, spec, seed, choice),
            max_tokens=max_tokens,
            stop=stop,
            echo=isinstance(request, CompletionRequest) and bool(request.echo),
            state=state,
            priority=request.priority or 0,
            session="" if number or choice else session,
        )
        for number, prompt in enumerate(prompts)
        for choice in range(choices)
    ]


def keep_alive_of(written: float | str, param: str) -> float:
    """Seconds, negative for ever; raises BadRequest."""
    try:
        seconds = seconds_of(written) if isinstance(written, str) else written
    except ValueError:
        raise BadRequest(
            f"{param} must be seconds or a duration: 300, 5m, 1h30m, or -1 for ever.", param=param
        ) from None
    if math.isnan(seconds) or seconds > LONGEST_KEEP_ALIVE:
        raise BadRequest(f"{param} must be at most {LONGEST_KEEP_ALIVE} s; write -1 for ever.", param=param)
    return seconds


def prompts_of(request: ChatRequest | CompletionRequest) -> list[Prompt]:
    if isinstance(request, ChatRequest):
        effort = None if request.reasoning_effort is None else _EFFORTS[request.reasoning_effort]
        turns = [_turn(message, f"messages.{index}") for index, message in enumerate(request.messages)]
        return [ChatPrompt(turns, effort)]
    if isinstance(request.prompt, str):
        return [TextPrompt(request.prompt)]
    texts = [item for item in request.prompt if isinstance(item, str)]
    ids = [item for item in request.prompt if isinstance(item, int)]
    lists = [item for item in request.prompt if isinstance(item, list)]
    if ids and len(ids) == len(request.prompt):
        return [TokenPrompt(ids)]
    if len(request.prompt) not in (len(texts), len(lists)):
        raise BadRequest(
            "prompt must be a string, or an array of only strings, only token ids or only arrays of token ids.",
            param="prompt",
        )
    return [TextPrompt(text) for text in texts] or [TokenPrompt(tokens) for tokens in lists]


def _turn(message: Message, path: str) -> Turn:
    if message.tool_calls or message.function_call:
        field = "tool_calls" if message.tool_calls else "function_call"
        raise BadRequest(f"{path}.{field} is not supported yet; leave it out.", param=f"{path}.{field}")
    text = _text(message, path)
    match message.role:
        case "developer":
            return Turn("system", text)
        case "function":
            return Turn("tool", text)
        case role:
            return Turn(role, text)


def _text(message: Message, path: str) -> str:
    content = message.content
    if isinstance(content, str):
        return content
    if content is None:
        if message.role == "assistant":
            return ""
        raise BadRequest(f"{path}.content must be a string or an array of parts.", param=f"{path}.content")
    for index, part in enumerate(content):
        here = f"{path}.content.{index}"
        if part.type != "text":
            raise BadRequest(f"{here}.type must be text: this server takes nothing else.", param=f"{here}.type")
        if part.text is None:
            raise BadRequest(f"{here}.text is missing.", param=f"{here}.text")
    return "".join(part.text or "" for part in content)


def _sampling(request: SamplingFields, spec: ModelSpec, seed: int, choice: int) -> Sampling:
    default = spec.sampling
    like_rwkv = (request.penalty_decay, request.alpha_presence, request.alpha_frequency, request.alpha_decay)
    top_k, top_p = _first(request.top_k, default.top_k), _first(request.top_p, default.top_p)
    if top_p == 0:  # the smallest set of tokens is the most probable one
        top_k, top_p = 1, 1.0
    return Sampling(
        temperature=_first(request.temperature, default.temperature),
        top_p=top_p,
        top_k=max(top_k, 0),
        min_p=_first(request.min_p, 0.0),
        presence_penalty=_first(request.alpha_presence, request.presence_penalty, default.presence_penalty),
        frequency_penalty=_first(request.alpha_frequency, request.frequency_penalty, default.frequency_penalty),
        penalty_decay=_first(request.alpha_decay, request.penalty_decay, default.penalty_decay),
        logit_bias={int(token): bias for token, bias in (request.logit_bias or {}).items()},
        order="openai" if like_rwkv == (None,) * len(like_rwkv) else "rwkv",
        seed=seed,
        choice=choice,
    )


def _first(asked: T | None, *otherwise: T | None) -> T:
    """The first value that is given; the last one always is."""
    if asked is not None:
        return asked
    return _first(*otherwise)


def _max_tokens(request: SamplingFields, spec: ModelSpec) -> int:
    name = "max_tokens" if request.max_completion_tokens is None else "max_completion_tokens"
    asked = request.max_tokens if request.max_completion_tokens is None else request.max_completion_tokens
    limit = spec.limits.max_tokens
    if asked is not None and asked > limit:
        raise BadRequest(f"{name} must be at most {limit}, the limit of {spec.name}.", param=name)
    return min(spec.sampling.max_tokens, limit) if asked is None else asked


def _check_options(request: ChatRequest | CompletionRequest) -> None:
    if request.stream_options is not None and not request.stream:
        raise BadRequest("stream_options is only allowed when stream is true.", param="stream_options")
    if isinstance(request, CompletionRequest) and request.best_of not in (None, request.n or 1):
        raise BadRequest("best_of other than n is not supported; leave it out.", param="best_of")
