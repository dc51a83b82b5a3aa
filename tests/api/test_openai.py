"""Answers of the OpenAI routes, whole and streamed, as they are on the wire."""

import asyncio
import json
from typing import Any

import httpx
import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from cortexd.catalogue.spec import ModelSpec
from cortexd.errors import EngineDied, QueueFull, Unavailable
from tests.api.serving import CHAT, House, chat_body, comments_of, events_of, serving, turns_until
from tests.fake_engine import Reply, failing, refusing
from tests.fakes import FakeDaemon


def chunks_of(response: httpx.Response) -> list[ChatCompletionChunk]:
    events = events_of(response.text)
    assert events.pop() == "[DONE]"
    return [ChatCompletionChunk.model_validate(event, strict=True) for event in events]


async def test_a_whole_answer_has_the_shape_that_clients_expect(house: House) -> None:
    response = await house.chat("one two three")
    answer = ChatCompletion.model_validate(response.json(), strict=True)
    assert answer.id.startswith("chatcmpl-")
    assert (answer.object, answer.model) == ("chat.completion", "goose")
    assert answer.system_fingerprint.startswith("fp_")
    choice = answer.choices[0]
    assert (choice.index, choice.finish_reason, choice.logprobs) == (0, "stop", None)
    assert (choice.message.role, choice.message.content) == ("assistant", "Hello, dear world!")
    assert "reasoning_content" not in response.json()["choices"][0]["message"]
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (3, 3, 6)


async def test_the_headers_tell_what_happened(house: House) -> None:
    headers = (await house.chat(ignore_eos=True, store=1, **{"ä": 1, "a\r\nb": 2})).headers
    assert (headers["x-cortexd-model"], headers["x-cortexd-tier"]) == ("goose", "ready")
    assert (headers["x-cortexd-load-ms"], headers["x-cortexd-queue-ms"]) == ("0", "0")
    assert int(headers["openai-processing-ms"]) >= 0
    assert headers["x-cortexd-ignored"] == "ignore_eos, store"
    assert "x-cortexd-ignored" not in (await house.chat()).headers


async def test_a_name_that_no_header_can_hold_is_escaped() -> None:
    async with serving(FakeDaemon(ModelSpec(name="гусь 2", source="file"))) as house:
        response = await house.chat(model="гусь 2")
        assert response.headers["x-cortexd-model"] == "%D0%B3%D1%83%D1%81%D1%8C 2"
        assert response.json()["model"] == "гусь 2"


async def test_a_stream_begins_with_the_role_and_ends_with_the_finish(house: House) -> None:
    response = await house.chat(stream=True)
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert (response.headers["cache-control"], response.headers["x-accel-buffering"]) == ("no-cache", "no")
    chunks = chunks_of(response)
    deltas = [chunk.choices[0].delta.model_dump(exclude_unset=True) for chunk in chunks]
    assert deltas == [
        {"role": "assistant", "content": ""},
        {"content": "Hello, "},
        {"content": "dear "},
        {"content": "world!"},
        {},
    ]
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * 4 + ["stop"]
    assert len({(chunk.id, chunk.created, chunk.model, chunk.system_fingerprint) for chunk in chunks}) == 1
    assert all("usage" not in event for event in events_of(response.text)[:-1])
    assert not comments_of(response.text)


async def test_usage_comes_last_where_it_is_asked_for(house: House) -> None:
    house.script.otherwise = Reply("Hello, dear world!", cached=1)
    response = await house.chat("a b", stream=True, stream_options={"include_usage": True})
    *chunks, last = events_of(response.text)[:-1]
    assert all(chunk["usage"] is None for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"] == {
        "prompt_tokens": 2,
        "completion_tokens": 3,
        "total_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 1},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }
    assert last["id"] == chunks[0]["id"]


async def test_thought_comes_apart_from_the_answer(house: House) -> None:
    house.script.replies["think"] = Reply("Yes.", thought="Well, let me see.")
    whole = (await house.chat("think")).json()
    assert whole["choices"][0]["message"]["reasoning_content"] == "Well, let me see."
    assert whole["choices"][0]["message"]["content"] == "Yes."
    assert whole["usage"]["completion_tokens_details"] == {"reasoning_tokens": 4}
    deltas = [event["choices"][0]["delta"] for event in events_of((await house.chat("think", stream=True)).text)[:-1]]
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "Well, let me see."
    assert "".join(delta.get("content", "") for delta in deltas) == "Yes."


async def test_n_answers_run_side_by_side(house: House) -> None:
    house.script.replies["wait"] = Reply("Now.", gate=asyncio.Event())
    asking = asyncio.create_task(house.chat("wait", n=3, stream=True, stream_options={"include_usage": True}))
    await turns_until(lambda: len(house.script.generations) == 3)
    house.script.replies["wait"].gate.set()
    *chunks, usage = events_of((await asking).text)[:-1]
    for index in range(3):
        own = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == index]
        assert [choice["delta"] for choice in own] == [{"role": "assistant", "content": ""}, {"content": "Now."}, {}]
        assert own[-1]["finish_reason"] == "stop"
    assert (usage["usage"]["prompt_tokens"], usage["usage"]["completion_tokens"]) == (1, 3)
    assert [generation.request.sampling.choice for generation in house.script.generations] == [0, 1, 2]


async def test_several_prompts_are_answered_in_their_order(house: House) -> None:
    house.script.replies = {"a": Reply("One."), "b": Reply("Two words.")}
    answer = (await house.complete(["a", "b"], n=2)).json()
    Completion.model_validate(answer, strict=True)
    assert [(choice["index"], choice["text"]) for choice in answer["choices"]] == [
        (0, "One."),
        (1, "One."),
        (2, "Two words."),
        (3, "Two words."),
    ]
    assert (answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]) == (2, 6)


async def test_a_text_completion_streams_text(house: House) -> None:
    events = events_of((await house.complete("x", stream=True, echo=True)).text)
    assert events.pop() == "[DONE]"
    Completion.model_validate(
        events[-1], strict=True
    )  # the types know no chunk without a finish, but OpenAI sends them
    assert events[0]["object"] == "text_completion"
    assert events[0]["id"].startswith("cmpl-")
    assert "".join(event["choices"][0]["text"] for event in events) == "xHello, dear world!"
    assert [event["choices"][0]["finish_reason"] for event in events] == [None, None, None, "stop"]


async def test_token_ids_go_to_the_engine_as_they_are(house: House) -> None:
    house.script.replies["11 22"] = Reply("ids")
    assert (await house.complete([[11, 22]])).json()["choices"][0]["text"] == "ids"


async def test_the_length_is_a_reason_to_finish(house: House) -> None:
    answer = (await house.chat(max_tokens=2)).json()
    assert (answer["choices"][0]["message"]["content"], answer["choices"][0]["finish_reason"]) == (
        "Hello, dear ",
        "length",
    )


async def test_an_engines_refusal_before_the_first_token_is_a_status(house: House) -> None:
    house.script.replies["long"] = refusing("The prompt is too long.", "messages")
    for stream in (False, True):
        response = await house.chat("long", stream=stream)
        assert response.status_code == 400
        assert response.json()["error"] == {
            "message": "The prompt is too long.",
            "type": "invalid_request_error",
            "param": "messages",
            "code": "invalid_value",
        }


@pytest.mark.parametrize(
    ("error", "code"), [(EngineDied(), "engine_died"), (ZeroDivisionError("secret"), "internal_error")]
)
async def test_an_error_after_the_first_token_is_one_event_and_the_end(
    house: House, error: Any, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    house.script.replies["die"] = failing(error, after="Just a")
    for n in (1, 2):
        response = await house.chat("die", stream=True, n=n)
        assert response.status_code == 200
        *chunks, last = events_of(response.text)
        assert all("choices" in chunk for chunk in chunks)
        assert last["error"]["code"] == code
        assert "[DONE]" not in response.text
        assert "secret" not in response.text
        ended = await house.daemon.ended.get()
        assert (ended.status, ended.finish) == (503 if code == "engine_died" else 500, code)
    assert ("secret" in caplog.text) == (code == "internal_error")


async def test_an_error_in_one_of_n_answers_ends_them_all(house: House) -> None:
    house.script.replies = {"good": Reply("x ", endless=True), "bad": failing(EngineDied(), after="a b")}
    response = await house.complete(["good", "bad"], stream=True)
    assert "error" in events_of(response.text)[-1]
    assert all(generation.cancelled for generation in house.script.generations)


async def test_a_cold_model_answers_after_comments() -> None:
    daemon = FakeDaemon()
    daemon.script().loading.clear()
    async with (
        serving(daemon) as house,
        house.client.stream("POST", CHAT, json=chat_body(stream=True)) as response,
    ):
        assert response.status_code == 200
        assert not {"x-cortexd-tier", "x-cortexd-load-ms", "x-cortexd-queue-ms"} & response.headers.keys()
        pieces = response.aiter_text()
        first = await anext(pieces)
        assert first.startswith(": cortexd {")
        assert '"queue":0' in first
        daemon.script().loading.set()
        rest = first + "".join([piece async for piece in pieces])
        assert (
            "".join(c["choices"][0]["delta"].get("content", "") for c in events_of(rest)[:-1]) == "Hello, dear world!"
        )
        ready = json.loads(comments_of(rest)[-1].removeprefix(": cortexd "))
        assert (ready.pop("load_ms") >= 0, ready.pop("queue_ms") >= 0) == (True, True)
        assert ready == {"phase": "ready", "tier": "cold", "evicted": [], "config": "18"}


async def test_a_waiting_request_is_told_what_had_to_go_for_it() -> None:
    goose, swan = (ModelSpec(name=name, source="file", size=1000) for name in ("goose", "swan, black"))
    async with serving(FakeDaemon(goose, swan, ceiling=1500, residency_per_load=0.0)) as house:
        first = await house.chat()
        assert first.headers["x-cortexd-tier"] == "cold"
        assert "x-cortexd-evicted" not in first.headers
        assert (await house.chat(model="swan, black")).headers["x-cortexd-evicted"] == "goose"
        back = await house.chat()
        assert (back.headers["x-cortexd-tier"], back.headers["x-cortexd-evicted"]) == ("parked", "swan%2C black")
        streamed = await house.chat(model="swan, black", stream=True)
        assert '"tier":"parked"' in comments_of(streamed.text)[-1]
        assert '"evicted":["goose"]' in comments_of(streamed.text)[-1]


@pytest.mark.parametrize(
    ("written", "seconds"),
    [(90, 90.0), (0, 0.0), ("5m", 300.0), ("1h30m", 5400.0), ("90", 90.0), (-1, None), ("-1", None), (-0.5, None)],
)
async def test_a_request_may_say_how_long_its_model_stays(written: Any, seconds: float | None) -> None:
    daemon = FakeDaemon(keep_alive=1000.0)
    goose = daemon.catalogue.resolve("goose")
    async with serving(daemon) as house:
        for body, header in (({"keep_alive": written}, {}), ({"keep_alive": written}, "77"), ({}, str(written))):
            headers = {"x-cortexd-keep-alive": header} if header else {}
            await house.client.post(CHAT, json=chat_body(**body), headers=headers)
            left = daemon.supervisor.status(goose).keep_alive_left_s
            assert left == (None if seconds in (None, 0.0) else pytest.approx(seconds, abs=5))
        await house.chat()
        assert daemon.supervisor.status(goose).keep_alive_left_s == pytest.approx(1000, abs=5)


@pytest.mark.parametrize("written", ["soon", "", "nan", "inf", "5 parsecs", "400d", "1e99"])
async def test_a_keep_alive_that_is_no_duration_is_400(house: House, written: str) -> None:
    for response, param in (
        (await house.chat(keep_alive=written), "keep_alive"),
        (await house.complete(keep_alive=written), "keep_alive"),
        (
            await house.client.post(CHAT, json=chat_body(), headers={"x-cortexd-keep-alive": written}),
            "x-cortexd-keep-alive",
        ),
    ):
        assert (response.status_code, response.json()["error"]["param"]) == (400, param)
        assert param in response.json()["error"]["message"]
    assert not house.script.generations


@pytest.mark.parametrize("written", [1e99, True, [5], {}, "5" * 65])
async def test_a_keep_alive_of_another_kind_is_400(house: House, written: Any) -> None:
    response = await house.chat(keep_alive=written)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "keep_alive")


async def test_comments_go_on_while_the_model_loads_and_before_its_first_token() -> None:
    gate = asyncio.Event()
    daemon = FakeDaemon(comment_s=0.01)
    daemon.script().loading.clear()
    daemon.script().otherwise = Reply("Late.", gate=gate)
    async with (
        serving(daemon) as house,
        house.client.stream("POST", CHAT, json=chat_body(stream=True)) as response,
    ):
        blocks = response.aiter_text()
        text = ""
        while text.count('"phase":"loading","percent":40') < 3:
            text += await anext(blocks)
        daemon.script().loading.set()
        while text.count('"phase":"ready"') < 3:
            text += await anext(blocks)
        gate.set()
        text += "".join([block async for block in blocks])
    assert events_of(text)[-1] == "[DONE]"


async def test_a_load_that_fails_is_an_event_to_the_stream_that_waited_and_a_status_to_the_next() -> None:
    daemon = FakeDaemon()
    daemon.script().loading.clear()
    daemon.script().load_error = "The file is damaged."
    async with serving(daemon) as house:
        async with house.client.stream("POST", CHAT, json=chat_body(stream=True)) as first:
            assert first.status_code == 200
            daemon.script().loading.set()
            text = (await first.aread()).decode()
        assert [event["error"]["message"] for event in events_of(text)] == ["The file is damaged."]
        ended = await daemon.ended.get()
        assert (ended.status, ended.finish) == (503, "model_load_failed")
        for stream in (True, False):
            response = await house.chat(stream=stream)
            assert response.status_code == 503
            assert response.json()["error"]["code"] == "model_load_failed"
            assert response.headers["x-should-retry"] == "false"
            assert int(response.headers["retry-after"]) >= 1


async def test_a_checkpoint_known_to_be_damaged_is_refused_without_a_load() -> None:
    daemon = FakeDaemon(ModelSpec(name="goose", source="file", problem="It is half a file."))
    async with serving(daemon) as house:
        response = await house.chat(stream=True)
        assert (response.status_code, response.json()["error"]["message"]) == (503, "It is half a file.")
        assert response.headers["x-should-retry"] == "false"
    assert not daemon.script().engines


async def test_a_client_may_say_how_long_it_waits_for_a_load() -> None:
    daemon = FakeDaemon()
    daemon.script().loading.clear()
    async with serving(daemon) as house:
        response = await house.client.post(CHAT, json=chat_body(), headers={"prefer": "wait=0"})
        assert response.status_code == 503
        assert response.headers["retry-after"] == "1"  # a load of nothing takes 0.2 s
        assert "x-should-retry" not in response.headers
        assert daemon.leases() == 0
        daemon.script().loading.set()


async def test_a_client_is_told_to_come_back_when_the_load_is_expected_to_be_done() -> None:
    swan = ModelSpec(name="swan", source="file", size=4_000_000_000)  # 0.2 s and a second for each 400 MB
    goose = ModelSpec(name="goose", source="file", size=1000)
    daemon = FakeDaemon(goose, swan, parallel_loads=1, ceiling=10_000_000_000)  # what holds no memory may load any time
    daemon.script().loading.clear()
    async with serving(daemon) as house:
        answer = asyncio.create_task(house.chat())
        await turns_until(lambda: daemon.leases() == 1)
        response = await house.client.post(CHAT, json=chat_body(model="swan"), headers={"prefer": "wait=0"})
        assert (response.status_code, response.headers["retry-after"]) == (503, "11")
        daemon.script().loading.set()
        assert (await answer).status_code == 200


@pytest.mark.parametrize(("error", "status"), [(QueueFull(retry_after=1), 429), (Unavailable(), 503)])
async def test_what_a_retry_may_cure_does_not_forbid_it(house: House, error: Any, status: int) -> None:
    house.script.replies["x"] = Reply(error=error)
    response = await house.chat("x")
    assert response.status_code == status
    assert "x-should-retry" not in response.headers


async def test_one_line_tells_what_a_request_came_to(house: House) -> None:
    for stream in (False, True):
        answer = await house.chat("one two", stream=stream)
        ended = await house.daemon.ended.get()
        assert (ended.request, ended.model) == (answer.headers["x-request-id"], "goose")
        assert (ended.route, ended.status, ended.finish) == ("/v1/chat/completions", 200, "stop")
        assert (ended.prompt_tokens, ended.completion_tokens) == (2, 3)
        assert 0 <= ended.queue_ms <= ended.first_token_ms <= ended.total_ms


async def test_a_refused_request_is_told_of_too(house: House) -> None:
    await house.chat(n=0)
    await house.chat(model="crow")
    malformed, unknown = await house.daemon.ended.get(), await house.daemon.ended.get()
    assert (malformed.status, malformed.model, malformed.finish) == (400, "", "invalid_value")
    assert (unknown.status, unknown.model, unknown.finish) == (404, "", "model_not_found")


async def test_two_hundred_requests_at_once_are_all_answered() -> None:
    daemon = FakeDaemon()
    async with serving(daemon) as house:
        answers = await asyncio.gather(*(house.chat(f"x{i}", stream=i % 2 == 0) for i in range(200)))
        assert {answer.status_code for answer in answers} == {200}
        assert sum("Hello" in answer.text for answer in answers) == 200
        assert len(daemon.script().engines) == 1
        assert daemon.leases() == 0
        assert daemon.ended.qsize() == 200


async def test_what_falls_back_answers_from_the_first_request_on_as_what_it_is() -> None:
    daemon = FakeDaemon(ModelSpec(name="goose", source="file"))
    goose = daemon.catalogue.resolve("goose")
    await daemon.make_ready()
    daemon.supervisor.reconcile([])
    daemon.script("/other.pth").load_error = "It is half a file."
    daemon.rollouts.adopt([goose], [daemon.catalogue.change("goose", path="/other.pth")], 19)
    async with serving(daemon) as house:
        first, second = [await house.client.post(CHAT, json=chat_body()) for _ in range(2)]
    assert first.headers["x-cortexd-config"] == second.headers["x-cortexd-config"] == "19; fallback=18"
    assert first.json()["system_fingerprint"] == second.json()["system_fingerprint"]
    assert [(ended.config, ended.fallback) for ended in daemon.all_ended] == [("19; fallback=18", "failed")] * 2
