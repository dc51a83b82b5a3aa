"""What users of the `openai` package do, with the installed package or an older major of it.

Run as a program with the server's URL, it prints for each check null or what went wrong, as JSON. It stands alone: the older
package lives in a folder of its own and is found by PYTHONPATH.
"""

import asyncio
import inspect
import json
import sys
import traceback
import urllib.request
from collections.abc import Callable
from typing import Any

import openai
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionChunk

HELLO: Any = [{"role": "user", "content": "hello there"}]
ANSWER = "Hello, dear world!"


def expect(kind: type[Exception], ask: Callable[[], object]) -> Any:
    try:
        ask()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}")


def chat(client: OpenAI, text: str = "hello there", model: str = "goose", **more: Any) -> Any:
    return client.chat.completions.create(model=model, messages=[{"role": "user", "content": text}], **more)


def check_whole_answer(client: OpenAI) -> None:
    answer = chat(client)
    assert answer.choices[0].message.content == ANSWER
    assert answer.choices[0].finish_reason == "stop"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (2, 3, 5)
    assert answer.usage.completion_tokens_details.reasoning_tokens == 0


def check_stream(client: OpenAI) -> None:
    chunks = list(chat(client, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == ANSWER
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None, None, None, None, "stop"]


def check_stream_helper(client: OpenAI) -> None:
    with client.chat.completions.stream(model="goose", messages=HELLO) as stream:
        kinds = [event.type for event in stream]
        assert stream.get_final_completion().choices[0].message.content == ANSWER
    assert kinds[-1] == "content.done"


def check_chunks_satisfy_the_types(client: OpenAI) -> None:
    body = {"model": "goose", "messages": HELLO, "stream": True, "stream_options": {"include_usage": True}, "n": 2}
    request = urllib.request.Request(
        f"{client.base_url}chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        blocks = response.read().decode().strip().split("\n\n")
    assert blocks.pop() == "data: [DONE]"
    chunks = [ChatCompletionChunk.model_validate_json(block.removeprefix("data: ")) for block in blocks]
    assert len(chunks) == 11
    assert chunks[-1].usage.completion_tokens == 6
    assert not chunks[-1].choices
    assert all(chunk.usage is None for chunk in chunks[:-1])


def check_several_choices(client: OpenAI) -> None:
    assert [choice.message.content for choice in chat(client, n=2).choices] == [ANSWER, ANSWER]
    text = {0: "", 1: ""}
    for chunk in chat(client, n=2, stream=True):
        text[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert text == {0: ANSWER, 1: ANSWER}


def check_usage_of_a_stream(client: OpenAI) -> None:
    *chunks, last = chat(client, stream=True, stream_options={"include_usage": True})
    assert not last.choices
    assert last.usage.total_tokens == 5
    assert all(chunk.usage is None for chunk in chunks)


def check_stop(client: OpenAI) -> None:
    assert chat(client, stop=" world").choices[0].message.content == "Hello, dear"
    assert chat(client, stop=["nothing", " dear"]).choices[0].message.content == "Hello,"


def check_length(client: OpenAI) -> None:
    assert chat(client, max_completion_tokens=1).choices[0].finish_reason == "length"


def check_reasoning(client: OpenAI) -> None:
    assert chat(client, "think", reasoning_effort="high").choices[0].message.reasoning_content == "Let me see."
    thought = [getattr(chunk.choices[0].delta, "reasoning_content", "") for chunk in chat(client, "think", stream=True)]
    assert "".join(each or "" for each in thought) == "Let me see."


def check_content_parts(client: OpenAI) -> None:
    parts: Any = [{"type": "text", "text": "hello "}, {"type": "text", "text": "there"}]
    answer = client.chat.completions.create(
        model="goose", messages=[{"role": "developer", "content": "x"}, {"role": "user", "content": parts}]
    )
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 2


def check_text_completions(client: OpenAI) -> None:
    assert client.completions.create(model="goose", prompt="hello").choices[0].text == ANSWER
    many = client.completions.create(model="goose", prompt=[[1, 2], [3]], n=2)
    assert [choice.index for choice in many.choices] == [0, 1, 2, 3]
    streamed = client.completions.create(model="goose", prompt="hello", stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == ANSWER


def check_models(client: OpenAI) -> None:
    assert "goose" in [model.id for model in client.models.list()]
    assert client.models.retrieve("org/swan").owned_by == "cortexd"


def check_a_cold_model_streams(client: OpenAI) -> None:
    text = [chunk.choices[0].delta.content or "" for chunk in chat(client, model="org/swan", stream=True)]
    assert "".join(text) == ANSWER


def check_unknown_model(client: OpenAI) -> None:
    error = expect(openai.NotFoundError, lambda: chat(client, model="crow"))
    assert (error.code, error.param, error.type) == ("model_not_found", "model", "invalid_request_error")
    expect(openai.NotFoundError, lambda: client.models.retrieve("crow"))


def check_bad_request(client: OpenAI) -> None:
    error = expect(openai.BadRequestError, lambda: chat(client, temperature=3))
    assert error.param == "temperature"
    assert error.request_id.startswith("req_")
    tools: Any = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    assert expect(openai.BadRequestError, lambda: chat(client, tools=tools)).param == "tools"
    for stream in (True, False):
        assert expect(openai.BadRequestError, lambda s=stream: chat(client, "refuse", stream=s)).param == "messages"


def check_bug(client: OpenAI) -> None:
    headers = {"x-request-id": "bug-with-retries"}
    error = expect(openai.InternalServerError, lambda: chat(client, "bug", extra_headers=headers))
    assert (error.status_code, error.code) == (500, "internal_error")


def check_failed_load(client: OpenAI) -> None:
    expect(openai.APIError, lambda: chat(client, model="broken"))  # the load itself
    headers = {"x-request-id": "failed-with-retries"}
    error = expect(openai.InternalServerError, lambda: chat(client, model="broken", extra_headers=headers))
    assert (error.status_code, error.code) == (503, "model_load_failed")


def check_rate_limit(client: OpenAI) -> None:
    headers = {"x-request-id": "full-without-retries"}
    error = expect(
        openai.RateLimitError, lambda: chat(client.with_options(max_retries=0), "full", extra_headers=headers)
    )
    assert error.code == "queue_full"
    assert error.response.headers["retry-after"] == "2"


def check_retry(client: OpenAI) -> None:
    answer = chat(client, "first refused", extra_headers={"x-request-id": "retried-once"})
    assert answer.choices[0].message.content == ANSWER


def check_error_in_the_middle_of_a_stream(client: OpenAI) -> None:
    stream = chat(client, "die", stream=True)
    assert next(stream).choices[0].delta.role == "assistant"
    error = expect(openai.APIError, lambda: list(stream))
    assert error.code == "engine_died"


def check_raw_response(client: OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model="goose", messages=HELLO, extra_headers={"x-request-id": "raw-1"}
    )
    assert (raw.request_id, raw.headers["x-cortexd-model"]) == ("raw-1", "goose")
    assert int(raw.headers["openai-processing-ms"]) >= 0
    assert raw.parse().choices[0].message.content == ANSWER
    assert chat(client)._request_id.startswith("req_")


def check_streaming_response(client: OpenAI) -> None:
    with client.chat.completions.with_streaming_response.create(model="goose", messages=HELLO, stream=True) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in response.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"


def check_abort(client: OpenAI) -> None:
    stream = chat(client, "endless", stream=True, extra_headers={"x-request-id": "aborted"})
    next(stream)
    next(stream)
    stream.close()


def check_asynchronous_client(client: OpenAI) -> None:
    async def ask() -> list[str]:
        async with AsyncOpenAI(base_url=str(client.base_url), api_key="none") as own:
            answers = [own.chat.completions.create(model="goose", messages=HELLO) for _ in range(20)]
            return [answer.choices[0].message.content or "" for answer in await asyncio.gather(*answers)]

    assert asyncio.run(ask()) == [ANSWER] * 20


def checks() -> dict[str, Callable[[OpenAI], None]]:
    functions = inspect.getmembers(sys.modules[__name__], inspect.isfunction)
    return {name: function for name, function in functions if name.startswith("check_")}


def main() -> None:
    results: dict[str, str | None] = {}
    client = OpenAI(base_url=sys.argv[1], api_key="none", timeout=10)
    for name, check in checks().items():
        try:
            check(client)
            results[name] = None
        except Exception:
            results[name] = traceback.format_exc()
    json.dump({"version": openai.VERSION, "results": results}, sys.stdout)


if __name__ == "__main__":
    main()
