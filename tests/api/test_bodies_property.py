"""Whatever is sent, the answer is an answer or a refusal with the envelope, and never 500."""

import asyncio
import json
from collections.abc import Generator
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cortexd.api.app import create_app
from cortexd.api.schema import ASKS_NOTHING, ChatRequest, CompletionRequest
from tests.api.serving import CHAT, TEXT
from tests.fakes import FakeDaemon

FIELDS = sorted(
    {field.name for kind in (ChatRequest, CompletionRequest) for field in msgspec.structs.fields(kind)}
    | ASKS_NOTHING.keys()
)
numbers = st.integers() | st.floats() | st.sampled_from([0, 1, -1, 16, 2**31, 2**63, 2**64, 10**30, 1e308])
scalars = st.none() | st.booleans() | numbers | st.text(max_size=8) | st.sampled_from(["text", "auto", "user", "12"])
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)
messages = st.lists(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(["user", "system", "assistant", "tool", "function"]),
            "content": st.text(max_size=5) | values,
        },
        optional={"tool_calls": values, "name": values},
    ),
    max_size=3,
)
likely = st.fixed_dictionaries(
    {
        "model": st.sampled_from(["goose", "GOOSE", "crow", ""]) | st.text(max_size=5),
        "messages": messages,
        "prompt": st.text(max_size=5) | st.lists(st.integers(0, 9)),
    }
)
bodies = st.builds(
    lambda body, more: {**body, **more}, likely, st.dictionaries(st.sampled_from(FIELDS), values, max_size=2)
)


class Front:
    """The application in a loop of its own, without a socket."""

    def __init__(self, runner: asyncio.Runner) -> None:
        self._runner = runner
        self._client = runner.run(self._open())

    def post(self, url: str, body: bytes) -> httpx.Response:
        return self._runner.run(self._client.post(url, content=body))

    async def _open(self) -> httpx.AsyncClient:
        daemon = FakeDaemon()
        await daemon.make_ready()
        transport = httpx.ASGITransport(create_app(daemon))
        return httpx.AsyncClient(transport=transport, base_url="http://localhost")


@pytest.fixture(scope="module")
def front() -> Generator[Front]:
    with asyncio.Runner() as runner:
        yield Front(runner)


def assert_answered(response: httpx.Response) -> None:
    if response.status_code == 200:
        return
    assert response.status_code in (400, 404), response.text
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["message"].endswith((".", "?"))


@pytest.mark.parametrize("url", [CHAT, TEXT])
@settings(max_examples=200, deadline=None)
@given(body=bodies | values)
def test_any_json_is_answered_or_refused(front: Front, url: str, body: Any) -> None:
    assert_answered(front.post(url, json.dumps(body).encode()))


@settings(max_examples=200, deadline=None)
@given(body=st.binary(max_size=40) | st.text(alphabet='{}[]":,\\u0123d8mode l\n', max_size=40).map(str.encode))
def test_any_bytes_are_refused(front: Front, body: bytes) -> None:
    response = front.post(CHAT, body)
    assert_answered(response)
    assert response.status_code == 400


@settings(max_examples=100, deadline=None)
@given(field=st.sampled_from(FIELDS), value=values)
def test_any_value_of_one_field_is_answered_or_refused(front: Front, field: str, value: Any) -> None:
    valid = {"model": "goose", "messages": [{"role": "user", "content": "hi"}], "prompt": "hi"}
    for url in (CHAT, TEXT):
        assert_answered(front.post(url, json.dumps({**valid, field: value}).encode()))
