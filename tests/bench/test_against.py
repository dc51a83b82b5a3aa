import json
import os
import random
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.bench.against import Comparison, _chats
from tests.bench.chats import Refused, asked, chat, greeted, text_of
from tests.bench.machine import memory_of


class FakeServer:
    """Answers every chat with `max_tokens` tokens; refuses the options it was told not to know."""

    def __init__(self, *, unknown: tuple[str, ...] = (), usage: bool = True, cached: int = 0) -> None:
        self.bodies: list[dict[str, Any]] = []
        self._unknown, self._usage, self._cached = unknown, usage, cached

    def connect(self) -> httpx.AsyncClient:
        app = Starlette(routes=[Route("/v1/chat/completions", self._chat, methods=["POST"])])
        return httpx.AsyncClient(base_url="http://peer", transport=httpx.ASGITransport(app))

    async def _chat(self, request: Request) -> Response:
        body = await request.json()
        if unknown := [name for name in self._unknown if name in body]:
            return JSONResponse({"error": {"message": f"unknown: {unknown}"}}, status_code=400)
        self.bodies.append(body)
        deltas: list[dict[str, str]] = [{"role": "assistant"}, *({"content": "a"} for _ in range(body["max_tokens"]))]
        events: list[dict[str, Any]] = [{"choices": [{"delta": delta}]} for delta in deltas]
        if self._usage:
            usage = {"prompt_tokens": 20, "completion_tokens": body["max_tokens"]}
            events.append({"choices": [], "usage": {**usage, "prompt_tokens_details": {"cached_tokens": self._cached}}})
        lines = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
        return Response(lines + "data: [DONE]\n\n", media_type="text/event-stream")


async def test_each_client_has_its_chats_and_every_token_is_counted() -> None:
    peer = FakeServer()
    async with peer.connect() as client:
        figures = await _chats(await greeted(client, "goose"), random.Random(1), clients=4)
    chats = peer.bodies[1:]
    assert len(chats) == 4 * 3
    assert figures["chats of 4 at once, tokens each"] == 32
    assert {(body["model"], body["temperature"], body["ignore_eos"]) for body in chats} == {("goose", 0, True)}


async def test_no_two_chats_begin_alike() -> None:
    dice = random.Random(1)
    beginnings = [text_of(dice, 12).split()[0] for _ in range(500)]
    assert len(set(beginnings)) == 500


@pytest.mark.parametrize("unknown", [("ignore_eos",), ("logit_bias",), ("ignore_eos", "logit_bias")])
async def test_a_peer_is_not_sent_what_it_refuses(unknown: tuple[str, ...]) -> None:
    async with FakeServer(unknown=unknown).connect() as client:
        server = await greeted(client, "goose")
    assert set(server.endless) == {"ignore_eos", "logit_bias"} - set(unknown)


async def test_a_peer_that_refuses_even_a_plain_chat_is_quoted() -> None:
    async with FakeServer(unknown=("messages",)).connect() as client:
        with pytest.raises(Refused, match=r"400: .*messages"):
            await greeted(client, "goose")


async def test_a_chat_tells_what_was_said_and_how_much_of_the_prompt_had_to_be_read() -> None:
    async with FakeServer(cached=12).connect() as client:
        answer = await chat(await greeted(client, "goose"), [asked("hello")], 3)
    assert (answer.text, answer.tokens, answer.prompt_tokens, answer.read) == ("aaa", 3, 20, 8)
    assert answer.start < answer.first <= answer.last


async def test_a_stream_without_usage_is_no_measurement() -> None:
    async with FakeServer(usage=False).connect() as client:
        with pytest.raises(RuntimeError, match="usage"):
            await greeted(client, "goose")


def test_a_ratio_above_one_means_ours_is_better_whatever_is_measured() -> None:
    ours = {"a tok/s": 30.0, "a ms": 10.0, "a tokens each": 32.0, "memory MB": 100.0}
    theirs = {"a tok/s": 10.0, "a ms": 20.0, "a tokens each": 32.0}
    table = Comparison([ours], [theirs]).medians()
    assert table["a tok/s"] == {"ours": 30.0, "theirs": 10.0, "ratio": 3.0}
    assert table["a ms"] == {"ours": 10.0, "theirs": 20.0, "ratio": 2.0}
    assert "ratio" not in table["a tokens each"]
    assert table["memory MB"] == {"ours": 100.0}


def test_a_ratio_is_of_the_same_round_when_the_machine_slows_down() -> None:
    ours = [{"a tok/s": rate} for rate in (20.0, 2.0, 10.0)]
    theirs = [{"a tok/s": rate} for rate in (10.0, 1.0, 5.0)]
    assert Comparison(ours, theirs).medians()["a tok/s"]["ratio"] == 2.0


def test_the_memory_of_a_process_is_at_least_what_it_holds() -> None:
    held = bytearray(os.urandom(1)) * 64_000_000
    assert memory_of(os.getpid()) > len(held)
