"""The outages of others, against the real program: real workers that compete for a budget, hang, die and come back."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.checkpoint_files import tiny_state_dict, write_pth
from tests.end_to_end.conftest import ONE, Guest, House, RunningDaemon, Start, pause

pytestmark = pytest.mark.asyncio(loop_scope="package")

ENDLESS = {"max_tokens": 30000, "logit_bias": {"0": -100}, "stream": True, "seed": 3, "temperature": 1.0, "top_p": 1}


def make_models(folder: Path, *names: str) -> Path:
    for seed, name in enumerate(names or ("goose", "swan")):
        write_pth(folder / f"{name}.pth", tiny_state_dict(seed, layers=2, vocabulary=257))
    return folder


async def complete(daemon: RunningDaemon, model: str, **fields: Any) -> Any:
    body = {"model": model, "prompt": "Hello", "max_tokens": 4, **fields}
    return await daemon.client.post("/v1/completions", json=body)


@contextlib.asynccontextmanager
async def streaming(daemon: RunningDaemon, model: str, **fields: Any) -> AsyncGenerator["Stream"]:
    body = {"model": model, "prompt": "Hello", **ENDLESS, **fields}
    async with daemon.client.stream("POST", "/v1/completions", json=body) as response:
        yield Stream(response.aiter_lines())


class Stream:
    def __init__(self, lines: Any) -> None:
        self._lines = lines

    async def piece(self) -> str:
        """The text of the next chunk; raises what the stream says went wrong."""
        async for line in self._lines:
            if line.startswith("data: {"):
                chunk = json.loads(line.removeprefix("data: "))
                assert "error" not in chunk, chunk["error"]
                return chunk["choices"][0]["text"]
        raise AssertionError("the stream has ended")

    async def text(self, length: int) -> str:
        text = ""
        while len(text) < length:
            text += await self.piece()
        return text[:length]


async def test_an_eviction_never_kills_a_stream_but_waits_for_it(narrow: Guest):
    daemon, goose, swan = narrow
    async with streaming(daemon, goose, max_tokens=300) as stream:
        await stream.piece()
        other = asyncio.create_task(complete(daemon, swan))
        await daemon.until(swan, "queued")
        assert await daemon.state(goose) == "ready"
        await stream.text(100)
    answer = await other
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-cortexd-evicted"] == goose
    await daemon.until(goose, "cold")


async def test_an_answer_that_is_in_the_way_for_too_long_is_suspended_and_goes_on_as_if_nothing_had_been(
    start: Start, tmp_path: Path
):
    waits = {"CORTEXD_LIFECYCLE__MAX_WAIT": "0.3", "CORTEXD_LIFECYCLE__SUSPEND_AFTER": "0.1"}
    async with start(make_models(tmp_path), **ONE, **waits) as daemon:
        async with streaming(daemon, "goose") as stream:
            undisturbed = await stream.text(3000)
        async with streaming(daemon, "goose") as stream:
            text = await stream.text(100)
            answer = await complete(daemon, "swan")
            assert answer.status_code == 200, answer.text
            text += await stream.text(2900)
            assert text == undisturbed
        kinds = {row["kind"] for row in await daemon.journal(model="goose")}
        assert {"close", "suspend"} <= kinds


async def test_two_models_alternate_on_a_budget_for_one(narrow: Guest):
    daemon, goose, swan = narrow
    for turn in range(8):
        answer = await complete(daemon, (goose, swan)[turn % 2])
        assert answer.status_code == 200, answer.text
    evictions = await daemon.journal(kind="evict", model=goose)
    assert evictions
    assert "needs" in evictions[-1]["reason"]
    assert evictions[-1]["weighed"]


async def test_a_parked_model_comes_back_in_the_same_process(start: Start, tmp_path: Path):
    shape = {"layers": 7, "vocabulary": 257, "heads": 12, "head_size": 64}  # what is parked must be worth it
    write_pth(tmp_path / "goose.pth", tiny_state_dict(1, **shape))
    async with start(tmp_path, CORTEXD_MEMORY__PARKED="150 MB") as daemon:
        await complete(daemon, "goose")
        worker = await daemon.worker("goose")
        answer = await daemon.client.post("/admin/models/goose/park")
        assert answer.status_code == 200, answer.text
        await daemon.until("goose", "parked")
        answer = await complete(daemon, "goose")
        assert answer.headers["x-cortexd-tier"] == "parked"
        assert await daemon.worker("goose") == worker


async def test_a_model_larger_than_the_budget_is_refused_with_the_arithmetic(start: Start, tmp_path: Path):
    async with start(make_models(tmp_path), **{**ONE, "CORTEXD_MEMORY__CPU": "50 MB"}) as daemon:
        answer = await complete(daemon, "goose")
        assert answer.status_code == 507
        assert answer.headers["x-should-retry"] == "false"
        assert "goose needs" in answer.json()["error"]["message"]
        assert "the budget there is 50.0 MB" in answer.json()["error"]["message"]
        assert (await daemon.models())["goose"]["incarnation"] == 0


async def test_a_pin_is_kept_under_pressure(narrow: Guest):
    daemon, goose, swan = narrow
    await complete(daemon, goose)
    assert (await daemon.client.post(f"/admin/models/{goose}/pin")).status_code == 200
    answer = await complete(daemon, swan)
    assert answer.status_code == 507
    assert f"pinned ({goose})" in answer.json()["error"]["message"]
    assert await daemon.state(goose) == "ready"
    refused = await daemon.client.post(f"/admin/models/{swan}/pin")
    assert refused.status_code == 507
    await daemon.client.post(f"/admin/models/{goose}/unpin")
    assert (await complete(daemon, swan)).status_code == 200


async def test_a_ready_model_serves_while_another_one_takes_for_ever_to_load(roomy: Guest):
    daemon, goose, swan = roomy
    await complete(daemon, goose)
    slow = asyncio.create_task(complete(daemon, swan))
    worker = await stopped_worker(daemon, swan)
    for _ in range(20):
        answer = await complete(daemon, goose)
        assert answer.headers["x-cortexd-tier"] == "ready"
    assert await daemon.state(swan) == "loading"
    worker.resume()
    assert (await slow).status_code == 200


async def test_the_first_client_may_leave_and_the_last_one_is_still_served(roomy: Guest):
    daemon, goose, _ = roomy
    clients = [asyncio.create_task(complete(daemon, goose)) for _ in range(3)]
    worker = await stopped_worker(daemon, goose)
    while (await daemon.models())[goose]["waiting"] < 3:
        await pause()
    for client in clients[:2]:
        client.cancel()
    while (await daemon.models())[goose]["waiting"] > 1:
        await pause()
    worker.resume()
    assert (await clients[2]).status_code == 200
    assert (await daemon.models())[goose]["incarnation"] == 1


async def test_a_load_that_everybody_has_left_is_abandoned_after_a_while(start: Start, tmp_path: Path):
    async with start(make_models(tmp_path), CORTEXD_LIFECYCLE__LINGER="0.2") as daemon:
        client = asyncio.create_task(complete(daemon, "goose"))
        worker = await stopped_worker(daemon, "goose")
        client.cancel()
        await daemon.until("goose", "cold")
        assert not worker.is_running()
        assert "abandon" in {row["kind"] for row in await daemon.journal(model="goose")}
        assert (await daemon.ledger())["free"] == (await daemon.ledger())["ceiling"]


async def test_a_worker_killed_while_it_loads_is_told_to_who_waits_and_the_next_load_works(roomy: Guest):
    daemon, goose, _ = roomy
    client = asyncio.create_task(complete(daemon, goose))
    (await stopped_worker(daemon, goose)).kill()
    answer = await client
    assert answer.status_code == 503
    assert "SIGKILL" in answer.json()["error"]["message"]
    assert float(answer.headers["retry-after"]) <= 2
    async with asyncio.timeout(10):
        while (await complete(daemon, goose)).status_code != 200:
            await pause()


async def test_a_worker_killed_while_it_answers_ends_the_stream_with_an_error_and_nothing_else(roomy: Guest):
    daemon, goose, swan = roomy
    await complete(daemon, swan)
    other = await daemon.worker(swan)
    body = {"model": goose, "prompt": "Hello", **ENDLESS}
    async with daemon.client.stream("POST", "/v1/completions", json=body) as response:
        lines = response.aiter_lines()
        await Stream(lines).piece()
        (await daemon.worker(goose)).kill()
        last = [line async for line in lines if line.startswith("data: ")][-1]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "engine_died"
    answer = await complete(daemon, goose)
    assert answer.status_code == 200, answer.text
    assert await daemon.worker(swan) == other


async def test_a_worker_killed_while_it_drains_makes_room_at_once(roomy: Guest):
    daemon, goose, _ = roomy
    async with streaming(daemon, goose) as stream:
        await stream.piece()
        await daemon.client.post(f"/admin/models/{goose}/unload", json={"wait": False})
        assert await daemon.state(goose) == "draining"
        (await daemon.worker(goose)).kill()
        await daemon.until(goose, "cold", "failed")
    assert (await complete(daemon, goose)).status_code == 200


async def test_a_worker_that_does_not_end_when_told_is_killed_and_only_then_is_its_memory_given_away(narrow: Guest):
    daemon, goose, swan = narrow
    await complete(daemon, goose)
    worker = await daemon.worker(goose)
    worker.suspend()
    began = asyncio.get_running_loop().time()
    answer = await complete(daemon, swan)
    assert answer.status_code == 200, answer.text
    assert asyncio.get_running_loop().time() - began > 4, "it had 5 seconds"
    assert not worker.is_running()


async def test_a_worker_that_hangs_is_noticed_and_replaced(start: Start, tmp_path: Path):
    pings = {"CORTEXD_LIFECYCLE__PING_INTERVAL": "0.2", "CORTEXD_LIFECYCLE__PING_DEADLINE": "0.5"}
    async with start(make_models(tmp_path), **pings) as daemon:
        await complete(daemon, "goose")
        (await daemon.worker("goose")).suspend()
        answer = await complete(daemon, "goose", max_tokens=4)
        assert answer.status_code in (200, 503)
        answer = await complete(daemon, "goose")
        assert answer.status_code == 200, answer.text
        assert any("did not answer" in row["reason"] for row in await daemon.journal(model="goose"))


async def test_new_and_removed_files_leave_unchanged_models_alone(roomy: Guest, roomy_house: House):
    (daemon, goose, swan), (_, folder) = roomy, roomy_house
    make_models(folder, "duck")
    await complete(daemon, goose)
    await complete(daemon, "duck")
    unchanged, removed = await daemon.worker(goose), await daemon.worker("duck")
    write_pth(folder / "teal.pth", tiny_state_dict(9, layers=1, vocabulary=257))
    (folder / "duck.pth").unlink()
    write_pth(folder / f"{swan}.pth", tiny_state_dict(11, layers=1, vocabulary=257))
    assert (await complete(daemon, "teal")).status_code == 200
    assert "duck" not in await daemon.models()
    async with asyncio.timeout(10):
        while removed.is_running():
            await daemon.models()
    assert unchanged.is_running()
    assert (await daemon.models())[goose]["incarnation"] == 1


async def test_a_changed_file_is_loaded_anew_while_the_old_one_ends_its_answers(roomy: Guest, roomy_house: House):
    (daemon, goose, _), (_, folder) = roomy, roomy_house
    async with streaming(daemon, goose) as stream:
        before, old = await stream.text(50), await daemon.worker(goose)
        replacement = folder / ".new.pth"
        write_pth(replacement, tiny_state_dict(77, layers=1, vocabulary=257))
        replacement.rename(folder / f"{goose}.pth")
        await daemon.models()
        async with streaming(daemon, goose) as other:
            assert await other.text(50) != before
        assert await stream.text(50)
        assert old.is_running()
        assert await daemon.worker(goose) != old
    async with asyncio.timeout(20):
        while old.is_running():
            await daemon.models()


async def test_what_was_loaded_is_there_again_after_a_restart(start: Start, tmp_path: Path):
    home, models = tmp_path / "home", tmp_path / "models"
    models.mkdir()
    make_models(models)
    async with start(models, home=home) as daemon:
        await complete(daemon, "goose")
        await complete(daemon, "swan")
        await daemon.client.post("/admin/models/swan/unload")
    async with start(models, home=home) as daemon:
        await daemon.until("goose", "ready")
        assert await daemon.state("swan") == "cold"
        assert (await complete(daemon, "goose")).headers["x-cortexd-tier"] == "ready"
        kinds = [row["kind"] for row in await daemon.journal(model="swan")]
        assert "load" in kinds, "the journal remembers what was before the restart"


async def test_keep_alive_of_a_request_decides_when_its_model_goes(roomy: Guest):
    daemon, goose, swan = roomy
    await complete(daemon, goose, keep_alive=0)
    await daemon.until(goose, "cold", "parked")
    await complete(daemon, swan, keep_alive="10m")
    left = (await daemon.models())[swan]["keep_alive_left_s"]
    assert 590 < left <= 600


async def stopped_worker(daemon: RunningDaemon, model: str) -> psutil.Process:
    """Its worker, as soon as there is one, stopped before it has got far."""
    worker = await daemon.worker(model)
    worker.suspend()
    return worker
