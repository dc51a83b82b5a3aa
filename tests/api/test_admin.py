"""What operators do to models, and what they see of memory and decisions."""

import asyncio
from typing import Any

import httpx
import pytest

from cortexd.catalogue.spec import ModelSpec
from tests.api.serving import CHAT, House, chat_body, serving, turns_until
from tests.fake_engine import Reply
from tests.fakes import FakeDaemon

GOOSE = ModelSpec(name="goose", source="file", size=1000)
SWAN = ModelSpec(name="org/swan", source="file", size=1000, aliases=("duck",))


def pond(**policy: float) -> FakeDaemon:
    """Two models, and memory for one."""
    return FakeDaemon(GOOSE, SWAN, ceiling=1500, **{"residency_per_load": 0.0, **policy})


async def act(house: House, what: str, model: str = "goose", **order: Any) -> httpx.Response:
    return await house.client.post(f"/admin/models/{model}/{what}", json=order)


def assert_refused(response: httpx.Response, status: int, code: str, *words: str) -> None:
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    for word in words:
        assert word in response.json()["error"]["message"]


async def test_a_model_is_described_with_its_state_and_its_spec() -> None:
    async with serving(pond()) as house:
        await act(house, "load", "org/swan")
        goose, swan = (await house.client.get("/admin/models")).json()["models"]
        assert (goose["id"], goose["status"]["state"], goose["spec"]["size"]) == ("goose", "cold", 1000)
        assert (swan["status"]["state"], swan["status"]["memory"]) == ("ready", {"cpu": 1100})
        assert (swan["spec"]["hash"], swan["spec"]["aliases"]) == (SWAN.hash, ["duck"])
        assert (await house.client.get("/admin/models/org/swan")).json() == swan
        assert (await house.client.get("/admin/models/Duck")).json() == swan
        assert_refused(await house.client.get("/admin/models/crow"), 404, "model_not_found")


@pytest.mark.parametrize("what", ["load", "unload", "park", "pin", "unpin"])
async def test_an_unknown_model_is_404_whatever_is_wanted_of_it(house: House, what: str) -> None:
    assert_refused(await act(house, what, "crow"), 404, "model_not_found")


async def test_a_load_answers_when_it_is_done_and_holds_nothing() -> None:
    async with serving(pond()) as house:
        response = await house.client.post("/admin/models/goose/load")
        assert (response.status_code, response.json()["status"]["state"]) == (200, "ready")
        assert house.daemon.leases() == 0
        (load,) = (await house.client.get("/admin/journal?kind=load")).json()["decisions"]
        assert (load["model"], load["owner"]) == ("goose", "admin")


async def test_a_load_that_nobody_waits_for_goes_on() -> None:
    daemon = pond()
    daemon.script().loading.clear()
    async with serving(daemon) as house:
        response = await act(house, "load", wait=False)
        assert (response.status_code, response.json()["status"]["state"]) == (202, "loading")
        daemon.script().loading.set()
        await turns_until(lambda: daemon.supervisor.status(GOOSE).state == "ready" and daemon.leases() == 0)


async def test_a_load_that_fails_while_nobody_waits_is_seen_in_the_status() -> None:
    daemon = pond()
    daemon.script().load_error = "The file is damaged."
    async with serving(daemon) as house:
        assert (await act(house, "load", wait=False)).status_code == 202
        await turns_until(lambda: daemon.supervisor.status(GOOSE).state == "failed")
        status = (await house.client.get("/admin/models/goose")).json()["status"]
        assert status["error"] == "The file is damaged."
        assert_refused(await act(house, "load"), 503, "model_load_failed", "damaged")


async def test_a_client_that_leaves_gives_up_its_load() -> None:
    daemon = pond(linger=0.0)
    daemon.script().loading.clear()
    async with serving(daemon) as house:
        for accept in ("application/json", "text/event-stream"):
            headers = {"accept": accept}
            loading = asyncio.create_task(house.client.post("/admin/models/goose/load", headers=headers))
            await turns_until(lambda: daemon.leases() == 1)
            loading.cancel()
            await turns_until(lambda: daemon.leases() == 0)
        daemon.script().loading.set()


async def test_a_load_tells_its_progress_to_whoever_asks_for_it() -> None:
    daemon = pond()
    daemon.script().loading.clear()
    async with serving(daemon) as house:
        stream = house.client.stream("POST", "/admin/models/goose/load", headers={"accept": "text/event-stream"})
        async with stream as response:
            lines = response.aiter_lines()
            assert await anext(lines) == "event: progress"
            assert '"phase":' in await anext(lines)
            daemon.script().loading.set()
            rest = [line async for line in lines]
        assert rest[-3] == "event: done"
        assert '"state":"ready"' in rest[-2]
        assert daemon.leases() == 0


async def test_a_load_that_fails_says_so_at_the_end_of_its_progress() -> None:
    daemon = pond()
    daemon.script().load_error = "The file is damaged."
    async with serving(daemon) as house:
        response = await house.client.post("/admin/models/goose/load", headers={"accept": "text/event-stream"})
        assert response.text.split("\n\n")[-2].startswith(
            'event: error\ndata: {"error":{"message":"The file is damaged."'
        )


async def test_what_can_never_fit_is_507_with_the_arithmetic() -> None:
    async with serving(FakeDaemon(GOOSE, ceiling=500)) as house:
        for headers in ({}, {"accept": "text/event-stream"}):
            response = await house.client.post("/admin/models/goose/load", headers=headers)
            assert_refused(response, 507, "model_too_large", "1.1 KB", "500 B")
            assert response.headers["x-should-retry"] == "false"


async def test_an_unload_answers_when_it_is_gone() -> None:
    daemon = pond()
    async with serving(daemon) as house:
        await act(house, "load")
        response = await act(house, "unload")
        assert (response.status_code, response.json()["status"]["state"]) == (200, "cold")
        assert daemon.script().engines[0].stopped
        assert (await act(house, "unload")).json()["status"]["state"] == "cold"


async def test_an_unload_waits_for_the_answers_that_are_being_given() -> None:
    daemon = pond()
    daemon.script().otherwise = Reply("Now.", gate=asyncio.Event())
    async with serving(daemon) as house:
        answer = asyncio.create_task(house.chat())
        await turns_until(lambda: daemon.script().generations)
        assert (await act(house, "unload", wait=False)).json()["status"]["state"] == "draining"
        unloading = asyncio.create_task(act(house, "unload"))
        daemon.script().otherwise.gate.set()
        assert (await unloading).json()["status"]["state"] == "cold"
        assert (await answer).json()["choices"][0]["message"]["content"] == "Now."


async def test_force_ends_the_answers_that_are_being_given() -> None:
    daemon = pond()
    daemon.script().otherwise = Reply("word ", endless=True)
    async with serving(daemon) as house:
        answer = asyncio.create_task(house.chat())
        await turns_until(lambda: daemon.script().generations)
        assert (await act(house, "unload", force=True)).json()["status"]["state"] == "cold"
        assert (await answer).status_code == 503


async def test_what_others_wait_for_is_unloaded_by_force_alone() -> None:
    daemon = pond()
    daemon.script().loading.clear()
    async with serving(daemon) as house:
        waiting = asyncio.create_task(house.chat())
        await turns_until(lambda: daemon.leases() == 1)
        assert_refused(await act(house, "unload"), 409, "conflict", "force")
        assert (await act(house, "unload", force=True)).status_code == 200
        assert_refused(await waiting, 503, "unavailable", "administrator")


async def test_a_parked_model_keeps_its_worker() -> None:
    daemon = pond(host_tier=10**6)
    async with serving(daemon) as house:
        assert_refused(await act(house, "park"), 409, "conflict", "cold")
        await act(house, "load")
        assert (await act(house, "park")).json()["status"]["state"] == "parked"
        assert daemon.script().engines[0].parked
        answer = await house.chat()
        assert answer.headers["x-cortexd-tier"] == "parked"
        assert len(daemon.script().engines) == 1


async def test_a_pinned_model_stays_until_it_is_unpinned() -> None:
    async with serving(pond()) as house:
        await act(house, "load")
        assert (await act(house, "pin")).json()["status"]["pinned"] is True
        assert_refused(await act(house, "load", "org/swan"), 507, "model_too_large", "pinned (goose)")
        assert_refused(await act(house, "pin", "org/swan"), 507, "model_too_large", "goose")
        assert (await act(house, "unpin")).json()["status"]["pinned"] is False
        assert (await act(house, "load", "org/swan")).status_code == 200
        assert (await house.client.get("/admin/models/goose")).json()["status"]["state"] == "parked"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b'{"wait": 1}', "wait"),
        (b'{"priority": "request"}', "priority"),
        (b'{"force": "yes"}', "force"),
        (b"[]", None),
        (b"{", None),
    ],
)
async def test_a_malformed_order_is_400_and_changes_nothing(house: House, body: bytes, param: str | None) -> None:
    for what in ("load", "unload", "park", "pin", "unpin"):
        response = await house.client.post(f"/admin/models/goose/{what}", content=body)
        assert_refused(response, 400, "invalid_value")
        assert response.json()["error"]["param"] == param
    status = (await house.client.get("/admin/models/goose")).json()["status"]
    assert (status["state"], status["pinned"]) == ("ready", False)


async def test_a_plan_says_what_would_go_and_changes_nothing() -> None:
    async with serving(pond()) as house:
        await act(house, "load")
        plan = (await house.client.post("/admin/plan", json={"load": "duck"})).json()
        assert [(step["does"], step["model"]) for step in plan["steps"]] == [("evict", "goose"), ("load", "org/swan")]
        assert (plan["needed"], plan["memory"]["cpu"]["ceiling"]) == ({"cpu": 1100}, 1500)
        assert (await house.client.get("/admin/models/goose")).json()["status"]["state"] == "ready"
        assert_refused(await house.client.post("/admin/plan", json={"load": "crow"}), 404, "model_not_found")
        assert_refused(await house.client.post("/admin/plan", json={}), 400, "invalid_value", "load")


async def test_the_memory_is_told_by_device_and_by_model() -> None:
    async with serving(pond()) as house:
        await act(house, "load")
        memory = (await house.client.get("/admin/memory")).json()
        assert memory["devices"] == {
            "cpu": {"ceiling": 1500, "resident": 1100, "reserved": 0, "debt": 0, "foreign": 0, "free": 400}
        }
        (goose,) = memory["models"]
        assert (goose["model"], goose["state"], goose["memory"]) == ("goose", "ready", {"cpu": 1100})


async def test_the_wait_graph_names_who_holds_what() -> None:
    daemon = pond()
    daemon.script().otherwise = Reply("Now.", gate=asyncio.Event())
    async with serving(daemon) as house:
        assert (await house.client.get("/admin/wait-graph")).text == ""
        answer = asyncio.create_task(house.client.post(CHAT, json=chat_body(), headers={"x-request-id": "me"}))
        await turns_until(lambda: daemon.script().generations)
        assert (await house.client.get("/admin/wait-graph")).text == "goose is ready and held by me\n"
        daemon.script().otherwise.gate.set()
        await answer


async def decisions(house: House, query: str) -> list[tuple[int, str, str]]:
    rows = (await house.client.get(f"/admin/journal?{query}")).json()["decisions"]
    return [(row["id"], row["kind"], row["model"]) for row in rows]


async def test_the_journal_is_told_newest_first_and_page_by_page() -> None:
    async with serving(pond()) as house:
        await act(house, "load")
        await act(house, "load", "org/swan")
        everything = await decisions(house, "")
        assert [id for id, _, _ in everything] == list(range(len(everything), 0, -1))
        assert await decisions(house, "limit=2") == everything[:2]
        assert await decisions(house, f"limit=2&before={everything[1][0]}") == everything[2:4]
        swan = [row for row in everything if row[2] == "org/swan"]
        assert await decisions(house, "model=duck") == swan != []
        gone = await decisions(house, "kind=evict,park&kind=pin")
        assert [(kind, model) for _, kind, model in gone] == [("park", "goose"), ("evict", "goose")]
        assert await decisions(house, "since=1h") == everything
        assert await decisions(house, "since=99999999999") == []


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=x", "limit"),
        ("before=-1", "before"),
        ("before=99999999999999999999", "before"),
        ("since=yesterday", "since"),
        ("since=nan", "since"),
        ("since=", "since"),
        ("kind=eviction", "kind"),
    ],
)
async def test_a_question_that_makes_no_sense_is_400(house: House, query: str, param: str) -> None:
    response = await house.client.get(f"/admin/journal?{query}")
    assert_refused(response, 400, "invalid_value")
    assert response.json()["error"]["param"] == param


async def test_the_history_of_a_model_that_is_gone_can_still_be_read(house: House) -> None:
    assert_refused(await house.client.get("/admin/journal?model=crow"), 404, "model_not_found")
    house.daemon.journal.rows.append({"id": 99, "at": 1.0, "kind": "unload", "model": "crow"})
    assert await decisions(house, "model=crow") == [(99, "unload", "crow")]
