"""Change it, break it, take it back: the real program, its file, its admin API and its restarts."""

import asyncio
import contextlib
import itertools
import math
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.checkpoint_files import tiny_state_dict, write_pth
from tests.end_to_end.conftest import Guest, House, RunningDaemon, Start, pause
from tests.end_to_end.test_residency import complete, make_models, streaming

pytestmark = pytest.mark.asyncio(loop_scope="package")

CONFIG = "/admin/config"
THREE = {"CORTEXD_LIFECYCLE__PREDICT": "false", "CORTEXD_LIFECYCLE__KEEP_ALIVE": "-1"}


async def patch(daemon: RunningDaemon, change: dict[str, Any], **query: str) -> dict[str, Any]:
    response = await daemon.client.patch(CONFIG, json=change, params=query, headers={"if-match": "*"})
    assert response.status_code == 200, response.text
    return response.json()


async def version(daemon: RunningDaemon) -> int:
    return (await daemon.client.get(CONFIG)).json()["version"]


async def until_version(daemon: RunningDaemon, wanted: int) -> None:
    async with asyncio.timeout(20):
        while await version(daemon) < wanted:
            await pause()


def write_broken(folder: Path) -> None:
    """One whose header is whole and whose numbers are none, and one that is cut off."""
    weights = tiny_state_dict(7, layers=2, vocabulary=257)
    write_pth(folder / "sick.pth", {name: torch.full_like(tensor, math.nan) for name, tensor in weights.items()})
    write_pth(folder / "half.pth", weights)
    whole = (folder / "half.pth").read_bytes()
    (folder / "half.pth").write_bytes(whole[: len(whole) // 2])


@pytest.mark.parametrize("path", ["sick.pth", "half.pth", "nowhere.pth"])
async def test_a_bad_change_to_one_of_three_models_disturbs_neither_the_others_nor_it(
    roomy: Guest, roomy_house: House, path: str
):
    (daemon, goose, swan), (_, folder) = roomy, roomy_house
    write_broken(folder)
    before = await version(daemon)
    async with contextlib.AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(streaming(daemon, name)) for name in (goose, swan, "demo")]
        for stream in streams:
            await stream.piece()
        outcome = await patch(daemon, {"model": {goose: {"path": path}}}, reason="better weights")
        assert outcome["version"] == before + 1
        await _until_fallback(daemon, goose)
        answer = await complete(daemon, goose)
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-cortexd-config"] == f"{before + 1}; fallback={before}"
        for stream in streams:  # none of them has ended
            await stream.text(500)
        (decision,) = await daemon.journal(model=goose, kind="fallback")
        assert f"as version {before} had it" in decision["reason"]
        status = (await daemon.client.get(f"{CONFIG}/status")).json()
        assert status["fallbacks"][goose]["version"] == before
        assert (await complete(daemon, swan)).headers["x-cortexd-config"] == str(before + 1)


async def _until_fallback(daemon: RunningDaemon, model: str) -> None:
    async with asyncio.timeout(30):
        while not await daemon.journal(model=model, kind="fallback"):
            await pause()


async def test_a_model_that_does_not_load_as_configured_answers_as_it_last_did_also_after_a_restart(
    start: Start, tmp_path: Path
):
    models, home = tmp_path / "models", tmp_path / "home"
    models.mkdir()
    write_broken(make_models(models, "goose"))
    async with start(models, home, **THREE) as daemon:
        first = await complete(daemon, "goose", seed=5, temperature=1)
        await patch(daemon, {"model": {"goose": {"path": "sick.pth"}}})
        await _until_fallback(daemon, "goose")
    async with start(models, home, **THREE, CORTEXD_LIFECYCLE__RESTORE="false") as daemon:
        answer = await complete(daemon, "goose", seed=5, temperature=1)
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-cortexd-config"] == "2; fallback=1"
        assert answer.json()["choices"] == first.json()["choices"]


async def test_new_settings_of_a_loaded_model_take_over_without_a_gap_and_its_streams_end_as_they_began(roomy: Guest):
    daemon, goose, _ = roomy
    async with streaming(daemon, goose) as undisturbed:
        text = await undisturbed.text(400)
    async with streaming(daemon, goose) as stream:
        begun = await stream.text(50)
        before = await daemon.worker(goose)
        outcome = await patch(daemon, {"model": {goose: {"max_concurrency": 4}}})
        (restarted,) = outcome["plan"]["restarted"]
        assert (restarted["model"], restarted["keys"], restarted["beside"]) == (goose, ["max_concurrency"], True)
        await _until_another_worker(daemon, goose, before.pid)
        answer = await complete(daemon, goose)
        assert answer.headers["x-cortexd-config"] == str(outcome["version"])
        assert answer.headers["x-cortexd-tier"] == "ready"
        assert begun + await stream.text(350) == text


async def _until_another_worker(daemon: RunningDaemon, model: str, pid: int) -> None:
    async with asyncio.timeout(30):
        while True:
            status = (await daemon.client.get(f"/admin/models/{model}")).json()["status"]
            if status["state"] == "ready" and status["pids"] != [pid]:
                return


async def test_sampling_defaults_change_for_the_next_request_and_no_worker_is_started(roomy: Guest):
    daemon, goose, _ = roomy
    fields: dict[str, Any] = {"seed": 5, "max_tokens": 40}
    free = [(await complete(daemon, goose, **{**fields, "seed": seed})).json()["choices"] for seed in (1, 2)]
    assert free[0] != free[1]
    worker = await daemon.worker(goose)
    outcome = await patch(daemon, {"model": {goose: {"sampling": {"temperature": 0}, "aliases": ["gpt-4o"]}}})
    assert outcome["plan"]["relabelled"] == [goose]
    greedy = [(await complete(daemon, "gpt-4o", **{**fields, "seed": seed})).json()["choices"] for seed in (1, 2)]
    assert greedy[0] == greedy[1]
    assert (await daemon.worker(goose)).pid == worker.pid


async def test_the_file_is_watched_and_read_again_on_sighup(start: Start, tmp_path: Path):
    home = tmp_path / "home"
    folder = home / "XDG_CONFIG_HOME" / "cortexd"
    async with start(make_models(tmp_path, "goose"), home) as daemon:
        assert await version(daemon) == 1
        folder.mkdir(parents=True)
        (folder / "cortexd.toml").write_text('[[model]]\nname = "goose"\naliases = ["gander"]\n')
        await until_version(daemon, 2)
        assert (await complete(daemon, "gander")).headers["x-cortexd-model"] == "goose"
        (folder / "cortexd.toml").write_text('[[model]]\nname = "goose"\nalias = ["gander"]\n')
        async with asyncio.timeout(20):
            while (told := (await daemon.client.get("/readyz")).json()["checks"]["configuration"]) == "ok":
                await pause()
        assert "cortexd.toml:3: model[0].alias is not a setting; did you mean model[0].aliases?" in told
        assert (await complete(daemon, "gander")).status_code == 200
        (folder / "cortexd.toml").write_text('[[model]]\nname = "goose"\naliases = ["ganter"]\n')
        daemon.process.send_signal(signal.SIGHUP)
        await until_version(daemon, 3)
        assert (await complete(daemon, "ganter")).status_code == 200


async def test_a_change_that_is_not_confirmed_is_undone_even_if_the_daemon_is_killed_meanwhile(
    start: Start, tmp_path: Path
):
    home = tmp_path / "home"
    models = make_models(tmp_path, "goose")
    async with start(models, home) as daemon:
        outcome = await patch(daemon, {"lifecycle": {"max_wait": 7}}, confirm_within="1s")
        assert outcome["revert_at"] is not None
        daemon.process.kill()
        await daemon.process.wait()
    async with start(models, home) as daemon:
        await until_version(daemon, 3)
        found = (await daemon.client.get(CONFIG)).json()
        assert found["document"]["lifecycle"]["max_wait"] == 30
        (newest, *_) = (await daemon.client.get("/admin/snapshots")).json()["snapshots"]
        assert (newest["source"], newest["restored_from"]) == ("auto-revert", 1)


async def test_a_rollback_brings_back_what_was_and_earlier_versions_answer_beside_it(roomy: Guest):
    daemon, goose, _ = roomy
    first = await version(daemon)
    await patch(daemon, {"model": {goose: {"sampling": {"temperature": 0}}}})
    greedy = (await complete(daemon, goose, seed=1, max_tokens=40)).json()["choices"]
    old = await complete(daemon, f"{goose}@{first}", seed=1, max_tokens=40)
    assert old.headers["x-cortexd-model"] == f"{goose}@{first}"
    assert old.json()["choices"] != greedy
    response = await daemon.client.post(f"/admin/snapshots/{first}/rollback", headers={"if-match": "*"})
    assert response.json()["version"] == first + 2
    new = await complete(daemon, goose, seed=1, max_tokens=40)
    assert new.headers["x-cortexd-config"] == str(first + 2)
    assert new.json()["choices"] == old.json()["choices"]
    same = await complete(daemon, f"{goose}@{first + 1}", seed=1, max_tokens=40)
    assert same.json()["choices"] == greedy
    assert (await complete(daemon, f"{goose}@{first + 3}")).status_code == 404


async def test_what_an_administrator_pins_or_loads_is_a_version_and_is_there_after_a_restart(
    start: Start, tmp_path: Path
):
    home, models = tmp_path / "home", make_models(tmp_path, "goose", "swan")
    async with start(models, home) as daemon:
        await daemon.client.post("/admin/models/goose/pin")
        await daemon.client.post("/admin/models/swan/load")
        reasons = [row["reason"] for row in (await daemon.client.get("/admin/snapshots")).json()["snapshots"]]
        assert reasons[:2] == ["loaded", "pinned"]
    async with start(models, home, CORTEXD_LIFECYCLE__RESTORE="false") as daemon:
        await daemon.until("swan", "ready")
        assert (await daemon.client.get("/admin/models/goose")).json()["status"]["pinned"]
        response = await daemon.client.post("/admin/snapshots/1/rollback", headers={"if-match": "*"})
        assert response.status_code == 200
        assert not (await daemon.client.get("/admin/models/goose")).json()["status"]["pinned"]


async def test_a_canary_that_does_not_load_is_taken_away_by_itself(start: Start, tmp_path: Path):
    write_broken(make_models(tmp_path, "goose"))
    async with start(tmp_path, **THREE) as daemon:
        assert (await complete(daemon, "goose")).status_code == 200
        split = {"name": "chat", "to": {"goose": 50, "sick": 50}}
        await patch(daemon, {"alias": [split], "model": {"sick": {"sampling": {"temperature": 1}}}})
        async with asyncio.timeout(60):
            for number in itertools.count():
                await complete(daemon, "chat", user=f"user {number}")
                if await version(daemon) > 2:
                    break
        for number in range(20):
            answer = await complete(daemon, "chat", user=f"user {number}")
            assert answer.headers["x-cortexd-model"] == "goose"
        (newest, *_) = (await daemon.client.get("/admin/snapshots")).json()["snapshots"]
        assert newest["source"] == "auto-revert"
        assert "sick could not be loaded" in newest["reason"]


async def test_a_session_keeps_to_its_version(roomy: Guest):
    daemon, goose, _ = roomy
    second = (await patch(daemon, {"model": {goose: {"sampling": {"temperature": 0}}}}))["version"]
    versions = {f"{goose}@{second - 1}", f"{goose}@{second}"}
    await patch(daemon, {"alias": [{"name": "chat", "to": dict.fromkeys(versions, 1)}]})
    given: dict[str, set[str]] = {}
    for _ in range(3):
        for user in map(str, range(16)):
            answer = await complete(daemon, "chat", user=user, max_tokens=1)
            given.setdefault(user, set()).add(answer.headers["x-cortexd-model"])
    assert all(len(models) == 1 for models in given.values())
    assert set.union(*given.values()) == versions
    refused = await daemon.client.patch(
        CONFIG, json={"alias": [{"name": "chat", "to": f"{goose}@777"}]}, headers={"if-match": "*"}
    )
    assert refused.status_code == 400
    assert "There is no version 777" in refused.json()["error"]["message"]


async def test_what_went_wrong_since_keeps_nobody_from_another_change_or_from_going_back(start: Start, tmp_path: Path):
    async with start(make_models(tmp_path, "goose", "swan"), **THREE) as daemon:
        await patch(daemon, {"alias": [{"name": "chat", "to": "goose"}]})
        (tmp_path / "goose.pth").unlink()
        assert (await complete(daemon, "chat")).status_code in (404, 503)
        await patch(daemon, {"lifecycle": {"max_wait": 7}})
        assert (await daemon.client.post("/admin/models/swan/pin")).status_code == 200
        worse = {"alias": [{"name": "chat", "to": "dodo"}]}
        refused = await daemon.client.patch(CONFIG, json=worse, headers={"if-match": "*"})
        assert refused.status_code == 400
        back = await daemon.client.post("/admin/snapshots/2/rollback", headers={"if-match": "*"})
        assert back.json()["version"] == 5
