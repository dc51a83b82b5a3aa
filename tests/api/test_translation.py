"""What an engine is asked, given what a client asked."""

import json
from typing import Any

import msgspec
import pytest

from cortexd.api.decoding import BodyDecoder
from cortexd.api.schema import ChatRequest, CompletionRequest
from cortexd.api.translation import generation_requests
from cortexd.catalogue.spec import Limits, ModelSpec, SamplingDefaults
from cortexd.engines.protocol import GenerationRequest
from cortexd.errors import BadRequest
from cortexd.wire import ChatPrompt, TextPrompt, TokenPrompt, Turn
from tests.api.serving import chat_body

SPEC = ModelSpec(
    name="goose",
    source="file",
    sampling=SamplingDefaults(temperature=0.7, top_p=0.4, top_k=50, presence_penalty=0.1, penalty_decay=0.99),
    limits=Limits(max_tokens=100),
)


def from_chat(**fields: Any) -> list[GenerationRequest]:
    return generation_requests(BodyDecoder(ChatRequest).decode(json.dumps(chat_body(**fields)).encode())[0], SPEC)


def from_completion(prompt: Any = "hi", **fields: Any) -> list[GenerationRequest]:
    body = {"model": "goose", "prompt": prompt, **fields}
    return generation_requests(BodyDecoder(CompletionRequest).decode(json.dumps(body).encode())[0], SPEC)


def turns(*messages: dict[str, Any]) -> list[Turn]:
    prompt = from_chat(messages=list(messages))[0].prompt
    assert isinstance(prompt, ChatPrompt)
    return prompt.turns


def test_what_a_request_does_not_say_comes_from_the_model() -> None:
    request = from_chat()[0]
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.7, 0.4, 50)
    assert (sampling.presence_penalty, sampling.penalty_decay, sampling.order) == (0.1, 0.99, "openai")
    assert (request.max_tokens, request.stop, request.echo) == (100, [], False)


def test_what_a_request_says_counts() -> None:
    request = from_chat(
        temperature=0,
        top_p=0.9,
        top_k=7,
        min_p=0.1,
        presence_penalty=-1,
        frequency_penalty=1.5,
        logit_bias={"12": -100, "5": 2.5},
        max_tokens=3,
        stop="end",
    )[0]
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (0, 0.9, 7, 0.1)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (-1, 1.5)
    assert sampling.logit_bias == {12: -100.0, 5: 2.5}
    assert (request.max_tokens, request.stop) == (3, ["end"])


def test_zero_is_said_and_not_the_same_as_nothing_said() -> None:
    sampling = from_chat(temperature=0, top_k=0, presence_penalty=0)[0].sampling
    assert (sampling.temperature, sampling.top_k, sampling.presence_penalty) == (0, 0, 0)


def test_top_k_of_minus_one_is_off() -> None:
    assert from_chat(top_k=-1)[0].sampling.top_k == 0


def test_top_p_of_zero_is_greedy() -> None:
    sampling = from_chat(top_p=0)[0].sampling
    assert (sampling.top_p, sampling.top_k) == (1.0, 1)


@pytest.mark.parametrize("field", ["penalty_decay", "alpha_decay"])
def test_a_decay_asks_for_the_order_of_rwkv(field: str) -> None:
    sampling = from_chat(**{field: 0.996})[0].sampling
    assert (sampling.order, sampling.penalty_decay) == ("rwkv", 0.996)


def test_the_alphas_are_rwkvs_names_for_the_penalties() -> None:
    sampling = from_chat(alpha_presence=0.4, alpha_frequency=0.3, presence_penalty=1)[0].sampling
    assert (sampling.order, sampling.presence_penalty, sampling.frequency_penalty) == ("rwkv", 0.4, 0.3)


def test_the_same_seed_is_another_stream_for_each_choice_but_the_same_for_each_prompt() -> None:
    requests = from_completion(["a", "b"], n=2, seed=-1)
    assert [request.sampling.seed for request in requests] == [2**64 - 1] * 4
    assert [request.sampling.choice for request in requests] == [0, 1, 0, 1]
    assert [request.prompt for request in requests] == [TextPrompt(text) for text in "aabb"]


def test_no_seed_is_a_new_one_each_time() -> None:
    assert from_chat()[0].sampling.seed != from_chat()[0].sampling.seed


def test_max_completion_tokens_wins() -> None:
    assert from_chat(max_tokens=50, max_completion_tokens=7)[0].max_tokens == 7


@pytest.mark.parametrize(("default", "longest"), [(7, 7), (100, 100), (101, 100)])
def test_an_answer_is_as_long_as_the_default_unless_the_limit_is_lower(default: int, longest: int) -> None:
    spec = msgspec.structs.replace(SPEC, sampling=SamplingDefaults(max_tokens=default))
    request = CompletionRequest(model="goose", prompt="hi")
    assert generation_requests(request, spec)[0].max_tokens == longest
    asked = msgspec.structs.replace(request, max_tokens=50)
    assert generation_requests(asked, spec)[0].max_tokens == 50


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_more_tokens_than_the_limit_are_refused(field: str) -> None:
    with pytest.raises(BadRequest, match=f"{field} must be at most 100, the limit of goose") as caught:
        from_chat(**{field: 101})
    assert caught.value.param == field


def test_stream_options_without_a_stream_are_refused() -> None:
    with pytest.raises(BadRequest) as caught:
        from_chat(stream_options={"include_usage": True})
    assert caught.value.param == "stream_options"


def test_prompts_times_n_are_bounded() -> None:
    assert len(from_completion(["x"] * 8, n=16)) == 128
    with pytest.raises(BadRequest, match="more than 128"):
        from_completion(["x"] * 9, n=16)


def test_prompts_of_token_ids_are_one_or_many() -> None:
    assert [request.prompt for request in from_completion([1, 2])] == [TokenPrompt([1, 2])]
    assert [request.prompt for request in from_completion([[1], [2, 3]])] == [TokenPrompt([1]), TokenPrompt([2, 3])]


@pytest.mark.parametrize("prompt", [["a", 1], [1, [2]], ["a", [1]]])
def test_prompts_are_not_mixed(prompt: Any) -> None:
    with pytest.raises(BadRequest, match="only strings, only token ids"):
        from_completion(prompt)


def test_best_of_is_taken_where_it_means_nothing() -> None:
    assert len(from_completion(n=2, best_of=2)) == 2
    with pytest.raises(BadRequest, match="best_of other than n"):
        from_completion(best_of=3)


def test_echo_is_handed_on() -> None:
    assert from_completion(echo=True)[0].echo


def test_roles_have_one_name_each() -> None:
    roles = ["system", "developer", "user", "assistant", "tool", "function"]
    said = turns(*({"role": role, "content": role} for role in roles))
    assert [turn.role for turn in said] == ["system", "system", "user", "assistant", "tool", "tool"]


def test_parts_of_text_are_joined() -> None:
    parts = [{"type": "text", "text": "Hello, "}, {"type": "text", "text": "world"}]
    assert turns({"role": "user", "content": parts}) == [Turn("user", "Hello, world")]


def test_an_assistant_may_have_said_nothing() -> None:
    said = turns({"role": "assistant", "content": None, "tool_calls": []}, {"role": "user", "content": "x"})
    assert said[0] == Turn("assistant", "")


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "user"}, "messages.0.content"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, "messages.0.content.0.type"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages.0.content.0.text"),
        ({"role": "assistant", "tool_calls": [{"id": "1"}]}, "messages.0.tool_calls"),
        ({"role": "assistant", "function_call": {"name": "f"}}, "messages.0.function_call"),
    ],
)
def test_messages_that_are_not_text_are_refused(message: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        turns(message)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("effort", "meant"),
    [
        (None, None),
        ("none", "none"),
        ("minimal", "low"),
        ("low", "low"),
        ("medium", "medium"),
        ("high", "high"),
        ("xhigh", "high"),
    ],
)
def test_effort_has_four_steps(effort: str | None, meant: str | None) -> None:
    prompt = from_chat(reasoning_effort=effort)[0].prompt
    assert isinstance(prompt, ChatPrompt)
    assert prompt.effort == meant
