"""Sessions over HTTP: named by requests, listed and removed by operators."""

from collections.abc import AsyncGenerator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.api.serving import House
from tests.session_states import leave, serving_sessions

SESSIONS = "/admin/sessions"
HEADER = "x-cortexd-session"


@pytest.fixture
async def house(tmp_path: Path) -> AsyncGenerator[House]:
    async with serving_sessions(tmp_path) as house:
        yield house


def sessions_asked(house: House) -> list[str]:
    return [generation.request.session for generation in house.script.generations]


async def test_the_body_names_the_session_else_the_header(house: House) -> None:
    await house.chat()
    await house.chat(session="mine")
    for body in ({}, {"session": "mine"}, {"session": ""}):
        await house.client.post("/v1/chat/completions", json=CHAT | body, headers={HEADER: "header's"})
    assert sessions_asked(house) == ["", "mine", "header's", "mine", ""]


CHAT = {"model": "goose", "messages": [{"role": "user", "content": "hi"}]}


async def test_of_several_answers_the_first_goes_on_in_the_session(house: House) -> None:
    await house.chat(session="mine", n=3)
    assert sessions_asked(house) == ["mine", "", ""]
    await house.complete(["a", "b"], session="book")
    assert sessions_asked(house)[3:] == ["book", ""]


@pytest.mark.parametrize("name", ["x" * 129, "a\nb", "\x1b[31m", "..", "."])
async def test_a_name_that_is_none_is_refused(house: House, name: str) -> None:
    response = await house.chat(session=name)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "session")
    assert not house.script.generations


async def test_a_header_that_is_too_long_is_refused_by_its_name(house: House) -> None:
    response = await house.client.post("/v1/chat/completions", json=CHAT, headers={HEADER: "x" * 129})
    assert response.json()["error"]["param"] == HEADER


async def test_requests_say_how_urgent_they_are(house: House) -> None:
    await house.chat()
    await house.chat(priority=-3)
    assert [generation.request.priority for generation in house.script.generations] == [0, -3]
    response = await house.chat(priority=101)
    assert response.json()["error"]["message"] == "priority must be at most 100."


async def test_sessions_are_listed_and_removed_by_name_and_tenant(house: House, tmp_path: Path) -> None:
    name = "a/b c?#é"
    for at, (session, tenant) in enumerate([("other", ""), (name, "ada"), (name, "")]):
        leave(tmp_path, session, at, tenant)
    listed = (await house.client.get(SESSIONS)).json()["sessions"]
    assert [(it["session"], it["tenant"]) for it in listed] == [(name, ""), (name, "ada"), ("other", "")]
    assert listed[0] | {"bytes": 0} == {
        "session": name,
        "tenant": "",
        "model": "goose",
        "turns": 2,
        "tokens": 4,
        "bytes": 0,
        "used_at": 2.0,
    }
    url = f"{SESSIONS}/{quote(name, safe='')}"
    assert (await house.client.get(url)).json() == {"sessions": listed[:1]}
    removed = (await house.client.delete(url, params={"tenant": "ada"})).json()
    assert removed == {"session": name, "tenant": "ada", "removed": 1}
    assert (await house.client.get(SESSIONS)).json()["sessions"] == [listed[0], listed[2]]


async def test_what_is_not_there_is_not_found_and_a_misspelt_tenant_removes_nothing(
    house: House, tmp_path: Path
) -> None:
    leave(tmp_path, "chat")
    for method, url in (
        ("GET", f"{SESSIONS}/chap"),
        ("DELETE", f"{SESSIONS}/chap"),
        ("DELETE", f"{SESSIONS}/chat?tenant=a"),
    ):
        response = await house.client.request(method, url)
        assert (response.status_code, response.json()["error"]["code"]) == (404, "session_not_found")
    assert (await house.client.delete(f"{SESSIONS}/chat?tennant=a")).status_code == 400
    assert len((await house.client.get(SESSIONS)).json()["sessions"]) == 1
