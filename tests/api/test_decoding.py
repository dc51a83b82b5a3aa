"""Bodies: what is taken, and the one sentence about what is not."""

import json
from typing import Any

import pytest

from cortexd.api.decoding import BodyDecoder
from cortexd.api.schema import ChatRequest, CompletionRequest
from cortexd.errors import BadRequest
from tests.api.serving import chat_body

chat = BodyDecoder(ChatRequest).decode
completion = BodyDecoder(CompletionRequest).decode


def refused(body: bytes | dict[str, Any]) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        chat(body if isinstance(body, bytes) else json.dumps(body).encode())
    return caught.value


@pytest.mark.parametrize(
    ("fields", "param", "sentence"),
    [
        ({"temperature": 3}, "temperature", "temperature must be at most 2."),
        ({"temperature": -0.1}, "temperature", "temperature must be at least 0."),
        ({"temperature": True}, "temperature", "temperature must be a number, not true or false."),
        ({"temperature": "1"}, "temperature", "temperature must be a number, not a string."),
        ({"top_p": 1.01}, "top_p", "top_p must be at most 1."),
        ({"top_k": -2}, "top_k", "top_k must be at least -1."),
        ({"n": True}, "n", "n must be an integer, not true or false."),
        ({"n": 17}, "n", "n must be at most 16."),
        ({"n": 0}, "n", "n must be at least 1."),
        ({"n": 1.5}, "n", "n must be an integer, not a number."),
        ({"n": 10**30}, "n", "n must be at most 16."),
        ({"seed": 2**63}, "seed", "seed must be at most 9223372036854775807."),
        ({"seed": -(2**63) - 1}, "seed", "seed must be at least -9223372036854775808."),
        ({"seed": 10**4000}, "seed", "seed must be at most 9223372036854775807."),
        ({"max_tokens": 0}, "max_tokens", "max_tokens must be at least 1."),
        ({"presence_penalty": 2.5}, "presence_penalty", "presence_penalty must be at most 2."),
        ({"penalty_decay": 0.5}, "penalty_decay", "penalty_decay must be at least 0.9."),
        ({"alpha_decay": 1.5}, "alpha_decay", "alpha_decay must be at most 1."),
        ({"stop": ""}, "stop", "stop must not be empty."),
        ({"stop": [""]}, "stop.0", "stop.0 must not be empty."),
        ({"stop": ["x"] * 17}, "stop", "stop must not have more than 16 entries."),
        ({"stop": ["x", "y" * 257]}, "stop.1", "stop.1 must not have more than 256 characters."),
        ({"stop": 3}, "stop", "stop must be a string or an array, not an integer."),
        ({"stream": 1}, "stream", "stream must be true or false, not an integer."),
        (
            {"logit_bias": {"hi": 1}},
            "logit_bias",
            "The keys of logit_bias must be token ids: numbers, written as strings.",
        ),
        ({"logit_bias": {"1": 101}}, "logit_bias", "logit_bias must be at most 100."),
        (
            {"logit_bias": {str(i): 0 for i in range(1025)}},
            "logit_bias",
            "logit_bias must not have more than 1024 entries.",
        ),
        (
            {"reasoning_effort": "huge"},
            "reasoning_effort",
            "reasoning_effort must be one of none, minimal, low, medium, high, xhigh.",
        ),
        ({"messages": []}, "messages", "messages must not be empty."),
        ({"messages": "hi"}, "messages", "messages must be an array, not a string."),
        ({"messages": [3]}, "messages.0", "messages.0 must be an object, not an integer."),
        ({"messages": [{"content": "hi"}]}, "messages.0.role", "messages.0.role is missing."),
        (
            {"messages": [{"role": "robot"}]},
            "messages.0.role",
            "messages.0.role must be one of system, developer, user, assistant, tool, function.",
        ),
        (
            {"messages": [{"role": "user", "content": 3}]},
            "messages.0.content",
            "messages.0.content must be a string or an array, not an integer.",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": 3}]}]},
            "messages.0.content.0.text",
            "messages.0.content.0.text must be a string, not an integer.",
        ),
        ({"model": None}, "model", "model must be a string, not null."),
        ({"model": "x" * 257}, "model", "model must not have more than 256 characters."),
    ],
)
def test_a_field_out_of_range_is_named_in_one_sentence(fields: dict[str, Any], param: str, sentence: str) -> None:
    error = refused(chat_body(**fields))
    assert (error.param, error.message) == (param, sentence)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "The body is empty; send a JSON object."),
        (b"{", "The body is not valid JSON: input data was truncated."),
        (b"\x00", "The body is not valid JSON: invalid character (byte 0)."),
        (b"[]", "The body must be an object, not an array."),
        (b"null", "The body must be an object, not null."),
        (b'{"model": "\xff"}', "The body is not UTF-8."),
        (b'{"model": "\xed\xa0\x80"}', "The body is not UTF-8."),
        (rb'{"model": "\ud800"}', "The body is not valid JSON; is half of a surrogate pair in it?"),
        (b'{"ignored": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "The body is nested too deeply."),
        (b'{"temperature": NaN}', "The body is not valid JSON: invalid character (byte 16)."),
        (b'{"temperature": Infinity}', "The body is not valid JSON: invalid character (byte 16)."),
    ],
)
def test_a_body_that_is_no_json_object_is_refused_in_one_sentence(body: bytes, sentence: str) -> None:
    error = refused(body)
    assert (error.param, error.message) == (None, sentence)


def test_a_number_too_large_for_a_float_is_refused() -> None:
    body = json.dumps(chat_body()).removesuffix("}") + ', "temperature": 1e999}'
    assert refused(body.encode()).message == "temperature is out of range."


def test_a_missing_field_is_named() -> None:
    assert refused({"messages": [{"role": "user", "content": "hi"}]}).param == "model"
    assert refused({"model": "goose"}).message == "messages is missing."


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"tool_choice": "required"},
        {"tool_choice": {"type": "function", "function": {"name": "f"}}},
        {"functions": [{"name": "f"}]},
        {"function_call": {"name": "f"}},
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}},
        {"logprobs": True},
        {"logprobs": 1},
        {"top_logprobs": 5},
        {"audio": {"voice": "alloy", "format": "wav"}},
        {"modalities": ["text", "audio"]},
        {"prediction": {"type": "content", "content": "x"}},
        {"web_search_options": {}},
        {"suffix": "end"},
        {"repetition_penalty": 1.1},
    ],
)
def test_what_is_not_supported_is_refused_by_name(fields: dict[str, Any]) -> None:
    error = refused(chat_body(**fields))
    assert error.param == next(iter(fields))
    assert error.message == f"{error.param} is not supported yet; leave it out."


def test_what_asks_for_nothing_is_accepted_and_not_called_ignored() -> None:
    body = chat_body(
        tools=[],
        tool_choice="auto",
        response_format={"type": "text"},
        logprobs=False,
        top_logprobs=0,
        modalities=["text"],
        audio=None,
        suffix=None,
        repetition_penalty=1.0,
        user="me",
        metadata={"a": "b"},
        stop=None,
        n=None,
        logit_bias={},
    )
    assert chat(json.dumps(body).encode())[1] == []


def test_fields_that_nobody_knows_are_ignored_and_named() -> None:
    _, ignored = chat(json.dumps(chat_body(ignore_eos=True, store=False, wishes={"deep": [1]})).encode())
    assert ignored == ["ignore_eos", "store", "wishes"]


def test_prompts_come_in_four_shapes() -> None:
    for prompt in ("text", ["a", "b"], [1, 2], [[1], [2, 3]]):
        body = {"model": "goose", "prompt": prompt}
        assert completion(json.dumps(body).encode())[0].prompt == prompt


@pytest.mark.parametrize("prompt", [None, [], 3, [-1], [2**32], [1.5], [True], [[True]], [None], [["a"]], {"a": 1}])
def test_a_prompt_of_another_shape_is_refused(prompt: Any) -> None:
    with pytest.raises(BadRequest) as caught:
        completion(json.dumps({"model": "goose", "prompt": prompt}).encode())
    assert str(caught.value.param).startswith("prompt")
