"""Routing, probes, the catalogue, and what every answer has in common."""

import asyncio
import logging
import re

import msgspec
import pytest

from cortexd import __version__
from cortexd.api.app import create_app
from cortexd.catalogue.spec import ModelSpec
from cortexd.config import Settings
from cortexd.errors import CortexdError, LoadFailed
from tests.api.serving import CHAT, TEXT, House, chat_body, every_route, serving
from tests.fake_engine import Reply
from tests.fakes import FakeDaemon

METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"}


def assert_is_refusal(response: object, status: int, code: str) -> None:
    assert (response.status_code, response.headers["content-type"]) == (status, "application/json")
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code
    assert error["message"]
    assert response.headers["x-request-id"]


async def test_every_route_answers_a_wrong_method_with_the_envelope(house: House) -> None:
    routes = every_route(create_app(house.daemon))
    assert len(routes) >= 34
    for path, methods in routes:
        allowed = methods or {"POST"}
        one_model = (
            {"GET", "HEAD"} if re.fullmatch("/admin/models/.*/.*", path) else set()
        )  # which may be called `a/load`
        for method in METHODS - allowed - one_model:
            response = await house.client.request(method, re.sub(r"\{.*?\}", "1", path))
            assert response.status_code == 405
            assert set(response.headers["allow"].split(", ")) == allowed
            if method != "HEAD":
                assert_is_refusal(response, 405, "method_not_allowed")


@pytest.mark.parametrize("url", ["/", "/v1", "/v1/chat", "/v1/chat/completions/", "/healthz/", "/v1//models", "/%ff"])
async def test_an_unknown_url_is_404_with_the_envelope(house: House, url: str) -> None:
    assert_is_refusal(await house.client.get(url), 404, "unknown_url")


async def test_no_answer_opens_the_server_to_pages_of_other_sites(house: House) -> None:
    origin = {"origin": "http://localhost:3000", "access-control-request-method": "POST"}
    for response in (
        await house.client.options(CHAT, headers=origin),
        await house.client.get("/v1/models", headers=origin),
    ):
        assert not [name for name in response.headers if name.startswith("access-control")]


async def test_probes_answer(house: House) -> None:
    for url in ("/healthz", "/health"):
        assert (await house.client.get(url)).json() == {"status": "ok"}
    assert (await house.client.get("/version")).json() == {"version": __version__}
    ready = await house.client.get("/readyz")
    assert (ready.status_code, ready.json()) == (200, {"ready": True, "checks": {"supervisor": "ok"}})


async def test_readiness_is_503_with_what_is_wrong(house: House) -> None:
    house.daemon.checks["tasks"] = "failed"
    ready = await house.client.get("/readyz")
    assert (ready.status_code, ready.json()["checks"]["tasks"]) == (503, "failed")
    assert (await house.client.get("/healthz")).status_code == 200


async def test_head_is_get_without_a_body(house: House) -> None:
    response = await house.client.head("/v1/models")
    assert (response.status_code, response.content) == (200, b"")
    assert int(response.headers["content-length"]) > 0


async def test_the_catalogue_lists_what_is_loaded_and_what_is_not() -> None:
    cold = ModelSpec(name="org/swan", source="directory", size=5, created=7, aliases=("duck",), architecture="rwkv7")
    daemon = FakeDaemon(ModelSpec(name="goose", source="file"), cold)
    await daemon.make_ready()
    async with serving(daemon) as house:
        goose, swan = (await house.client.get("/v1/models")).json()["data"]
        assert (goose["cortexd"]["state"], goose["cortexd"]["loaded_bytes"]) == ("ready", 1_000_000)
        assert (swan["id"], swan["object"], swan["created"], swan["owned_by"]) == ("org/swan", "model", 7, "cortexd")
        assert swan["cortexd"]["state"] == "cold"
        assert (swan["cortexd"]["size"], swan["cortexd"]["aliases"]) == (5, ["duck"])
        assert (await house.client.get("/v1/models/org/swan")).json() == swan
        assert (await house.client.get("/v1/models/org%2Fswan")).json() == swan
        assert (await house.client.get("/v1/models/DUCK")).json() == swan
        assert_is_refusal(await house.client.get("/v1/models/crow"), 404, "model_not_found")


async def test_a_model_that_has_just_arrived_is_found(house: House) -> None:
    house.daemon.catalogue.arrives = [ModelSpec(name="swan", source="directory")]
    response = await house.client.post(CHAT, json={**chat_body(), "model": "swan"})
    assert (response.status_code, house.daemon.refreshes) == (200, 1)
    assert (await house.chat()).status_code == 200
    assert house.daemon.refreshes == 1


async def test_a_request_keeps_its_id_where_it_is_sane(house: House) -> None:
    for given in ("abc-123", "x" * 128, "a/b+c=_.:"):
        response = await house.client.get("/healthz", headers={"x-request-id": given})
        assert response.headers["x-request-id"] == given
    for given in ("", "x" * 129, "a b", "ä".encode(), 'a"b', "a,b"):
        response = await house.client.get("/healthz", headers=[(b"x-request-id", given)])
        assert response.headers["x-request-id"].startswith("req_")


async def test_every_request_has_an_id_of_its_own(house: House) -> None:
    answers = [await house.client.get("/nowhere") for _ in range(3)]
    assert len({answer.headers["x-request-id"] for answer in answers}) == 3


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:11435",
        "127.0.0.1",
        "127.0.0.1:80",
        "[::1]:80",
        "[::1]",
        "api.localhost",
        "localhost.",
        "my.box",
    ],
)
async def test_names_of_this_machine_are_answered(host: str) -> None:
    settings = msgspec.convert({"server": {"host": "my.box", "drain_s": 0.0}}, Settings)
    async with serving(FakeDaemon(settings=settings)) as house:
        assert (await house.client.get("/healthz", headers={"host": host})).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:11435", "localhost.evil.example", "127.0.0.1.evil.example", "xlocalhost"]
)
async def test_a_name_that_was_bound_to_loopback_by_somebody_else_is_refused(house: House, host: str) -> None:
    for url in ("/healthz", "/v1/models", "/nowhere"):
        assert_is_refusal(await house.client.get(url, headers={"host": host}), 403, "forbidden")


async def test_a_page_of_another_site_cannot_make_the_browser_ask(house: House) -> None:
    response = await house.client.post(CHAT, json=chat_body(), headers={"sec-fetch-site": "cross-site"})
    assert_is_refusal(response, 403, "forbidden")
    assert not house.script.generations
    same = await house.client.post(CHAT, json=chat_body(), headers={"sec-fetch-site": "same-site"})
    assert same.status_code == 200


async def test_a_body_that_declares_to_be_too_large_is_refused_unread(house: House) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", house.port)
    writer.write(f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {2**40}\r\n\r\n".encode())
    assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")
    writer.close()


@pytest.mark.parametrize("url", [CHAT, TEXT])
async def test_a_body_without_a_length_is_held_to_the_same_limit(url: str) -> None:
    settings = msgspec.convert({"server": {"max_body_bytes": 2000, "drain_s": 0.0}}, Settings)

    async def body():
        for _ in range(30):
            yield b" " * 100

    async with serving(FakeDaemon(settings=settings)) as house:
        assert_is_refusal(await house.client.post(url, content=body()), 413, "request_too_large")
        assert_is_refusal(await house.client.post(url, content=b" " * 2001), 413, "request_too_large")
        assert_is_refusal(await house.client.post(url, content=b" " * 2000), 400, "invalid_value")


async def test_a_bug_is_told_to_the_log_and_not_to_the_client(house: House, caplog: pytest.LogCaptureFixture) -> None:
    house.script.replies["bug"] = Reply(error=ZeroDivisionError("the secret of the house"))
    with caplog.at_level(logging.ERROR, "cortexd.api"):
        response = await house.chat("bug")
    assert_is_refusal(response, 500, "internal_error")
    assert response.headers["x-should-retry"] == "false"
    assert "secret" not in response.text
    assert response.headers["x-request-id"] in response.json()["error"]["message"]
    assert "the secret of the house" in caplog.text
    assert response.headers["x-request-id"] in caplog.text
    assert (await house.daemon.ended.get()).status == 500


@pytest.mark.parametrize(
    ("error", "headers"),
    [
        (LoadFailed("no"), {"x-should-retry": "false"}),
        (LoadFailed("no", retry_after=2.1), {"x-should-retry": "false", "retry-after": "3"}),
        (CortexdError("no", retry_after=0.01), {"x-should-retry": "false", "retry-after": "1"}),
    ],
)
async def test_a_refusal_says_when_to_come_back(house: House, error: CortexdError, headers: dict[str, str]) -> None:
    house.script.replies["x"] = Reply(error=error)
    response = await house.chat("x")
    assert response.status_code == error.status
    told = {name: response.headers[name] for name in ("x-should-retry", "retry-after") if name in response.headers}
    assert told == headers
