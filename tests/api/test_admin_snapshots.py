"""The versions over HTTP: listed, compared, gone back to, carried elsewhere."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from cortexd.store.backup import restore
from tests.api.configured import CONFIG, Office, configured
from tests.api.serving import turns_until
from tests.api.test_admin import assert_refused

SNAPSHOTS = "/admin/snapshots"


@pytest.fixture
async def office(tmp_path: Path) -> AsyncGenerator[Office]:
    """Version 2 has more patience than version 1."""
    async with configured(tmp_path) as office:
        await office.patch({"lifecycle": {"keep_alive": "10m"}}, reason="more patience")
        yield office


async def keep_alive(office: Office) -> float:
    return (await office.client.get(CONFIG)).json()["document"]["lifecycle"]["keep_alive"]


async def test_the_history_is_told_newest_first_and_in_parts(office: Office) -> None:
    history = (await office.client.get(SNAPSHOTS)).json()
    assert (history["current"], history["confirmed"], history["revert_at"]) == (2, 2, None)
    newest, oldest = history["snapshots"]
    assert (newest["version"], newest["parent"], newest["source"], newest["reason"]) == (2, 1, "api", "more patience")
    assert (oldest["version"], oldest["source"], oldest["author"], oldest["pinned"]) == (1, "boot", "cortexd", False)
    assert "document" not in newest
    assert newest["hash"] == (await office.client.get(CONFIG)).json()["hash"]
    assert (await office.client.get(SNAPSHOTS, params={"limit": 1})).json()["snapshots"] == [newest]
    assert (await office.client.get(SNAPSHOTS, params={"before": 2})).json()["snapshots"] == [oldest]
    for query in ({"limit": "0"}, {"limit": "many"}, {"before": "-1"}, {"limit": "1" * 30}, {"after": "1"}):
        assert_refused(await office.client.get(SNAPSHOTS, params=query), 400, "invalid_value")


async def test_a_version_is_told_with_its_document(office: Office) -> None:
    first = (await office.client.get(f"{SNAPSHOTS}/1")).json()
    assert (first["version"], first["document"]["lifecycle"]["keep_alive"]) == (1, 300.0)


@pytest.mark.parametrize("version", ["9", "0", "9" * 18])
async def test_an_unknown_version_is_404_whatever_is_wanted_of_it(office: Office, version: str) -> None:
    for path in (f"{SNAPSHOTS}/{version}", f"{SNAPSHOTS}/{version}/diff/1", f"{SNAPSHOTS}/1/diff/{version}"):
        assert_refused(await office.client.get(path), 404, "version_not_found")
    for action in ("rollback", "confirm", "pin", "unpin"):
        assert_refused(await office.act(f"{SNAPSHOTS}/{version}/{action}"), 404, "version_not_found")


@pytest.mark.parametrize("version", ["two", "-1", "1.0", "%D9%A1", "1%00", "1%0A", "", "9" * 5000])
async def test_what_is_no_version_is_no_url(office: Office, version: str) -> None:
    assert_refused(await office.client.get(f"{SNAPSHOTS}/{version}"), 404, "unknown_url")
    assert_refused(await office.act(f"{SNAPSHOTS}/{version}/rollback"), 404, "unknown_url")


async def test_two_versions_are_compared_for_machines_and_for_people(office: Office) -> None:
    await office.patch({"model": {"goose": None, "swan": {"pin": True}}})
    diff = (await office.client.get(f"{SNAPSHOTS}/2/diff/3")).json()
    assert [change["path"] for change in diff["changes"]] == [["model", "goose"], ["model", "swan"]]
    assert diff["text"].splitlines() == ["- model.goose", "+ model.swan.pin: true"]
    one = await office.client.get(f"{SNAPSHOTS}/1/diff/2")
    assert one.json()["patch"] == [{"op": "replace", "path": "/lifecycle/keep_alive", "value": 600.0}]
    text = await office.client.get(f"{SNAPSHOTS}/1/diff/2", headers={"accept": "text/plain"})
    assert text.text == one.json()["text"] == "lifecycle.keep_alive: 5m → 10m\n"
    assert text.headers["content-type"].startswith("text/plain")
    assert (await office.client.get(f"{SNAPSHOTS}/1/diff/1")).json() == {"changes": [], "patch": [], "text": ""}


async def test_a_rollback_makes_a_new_version_of_an_old_one(office: Office) -> None:
    response = await office.act(f"{SNAPSHOTS}/1/rollback", params={"reason": "too patient"})
    assert (response.json()["version"], response.json()["changed"]) == (3, True)
    assert response.headers["etag"] == await office.tag()
    newest = (await office.client.get(f"{SNAPSHOTS}/3")).json()
    assert (newest["source"], newest["restored_from"], newest["reason"]) == ("rollback", 1, "too patient")
    assert await keep_alive(office) == 300.0
    assert (await office.act(f"{SNAPSHOTS}/2/rollback")).json()["version"] == 4
    assert await keep_alive(office) == 600.0


async def test_the_terms_of_a_rollback_may_be_in_its_body(office: Office) -> None:
    planned = await office.act(f"{SNAPSHOTS}/1/rollback", json={"dry_run": True})
    assert (planned.json()["changed"], len(planned.json()["changes"])) == (False, 1)
    assert await keep_alive(office) == 600.0
    done = (await office.act(f"{SNAPSHOTS}/1/rollback", json={"reason": "why", "confirm_within": 60})).json()
    assert done["revert_at"] is not None
    assert (await office.client.get(f"{SNAPSHOTS}/3")).json()["reason"] == "why"
    for body in ({"dryrun": True}, {"confirm_within": 0}, {"confirm_within": "soon"}, {"reason": 5}, []):
        assert_refused(await office.act(f"{SNAPSHOTS}/2/rollback", json=body), 400, "invalid_value")
    assert (await office.tag()).startswith('"v3-')


async def test_a_stale_rollback_is_412(office: Office) -> None:
    stale = await office.tag()
    await office.patch({"lifecycle": {"max_wait": 7}})
    refused = await office.act(f"{SNAPSHOTS}/1/rollback", match=stale)
    assert_refused(refused, 412, "stale_version", "lifecycle.max_wait")
    assert refused.json()["error"]["changed"] == ["lifecycle.max_wait"]


async def test_only_what_is_in_force_can_be_confirmed(office: Office) -> None:
    refused = await office.client.post(f"{SNAPSHOTS}/1/confirm")
    assert_refused(refused, 412, "stale_version", "Version 2")
    assert (await office.client.post(f"{SNAPSHOTS}/2/confirm")).json()["confirmed"] == 2


async def test_a_version_is_pinned_and_unpinned(office: Office) -> None:
    assert (await office.client.post(f"{SNAPSHOTS}/1/pin")).json()["pinned"] is True
    assert (await office.client.get(f"{SNAPSHOTS}/1")).json()["pinned"] is True
    assert (await office.client.post(f"{SNAPSHOTS}/1/unpin")).json()["pinned"] is False


async def test_a_history_is_carried_to_another_daemon(office: Office, tmp_path: Path) -> None:
    bundle = await office.client.get(f"{SNAPSHOTS}/export")
    assert bundle.headers["content-type"] == "application/jsonl"
    other = tmp_path / "other"
    other.mkdir()
    async with configured(other) as elsewhere:
        done = await elsewhere.act(f"{SNAPSHOTS}/import", content=bundle.content, params={"reason": "moved"})
        assert (done.json()["version"], done.json()["changed"]) == (2, True)
        assert done.headers["etag"] == await elsewhere.tag()
        assert await keep_alive(elsewhere) == 600.0
        newest = (await elsewhere.client.get(f"{SNAPSHOTS}/2")).json()
        assert (newest["source"], newest["reason"]) == ("import", "moved")
    for damaged in (b"", b"{}", bundle.content[:-20], bundle.content.replace(b"600", b"601"), b"\xff\n\xff\n"):
        refused = await office.act(f"{SNAPSHOTS}/import", content=damaged)
        assert_refused(refused, 400, "invalid_bundle")
    refused = await office.act(f"{SNAPSHOTS}/import", content=bundle.content, params={"dry_run": "true"})
    assert_refused(refused, 400, "invalid_value", "unknown")
    assert (await office.act(f"{SNAPSHOTS}/import", match='"v1-0123456789ab"', content=bundle.content)).is_success


async def test_the_chain_is_verified(office: Office) -> None:
    assert (await office.client.get(f"{SNAPSHOTS}/verify")).json() == {"fault": None}
    with contextlib.closing(sqlite3.connect(office.store.database.path)) as connection:
        connection.execute("DROP TRIGGER IF EXISTS snapshot_is_never_changed")
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute("UPDATE snapshot SET body = replace(body, '300', '301') WHERE version = 1")
        connection.commit()
    fault = (await office.client.get(f"{SNAPSHOTS}/verify")).json()["fault"]
    assert (fault["version"], fault["problem"]) == (1, "has another content than was written")


async def test_a_backup_can_be_restored_and_leaves_nothing_behind(office: Office, tmp_path: Path) -> None:
    before = sorted(office.store.snapshots.directory.iterdir())
    response = await office.client.get("/admin/backup")
    assert response.headers["content-type"] == "application/vnd.sqlite3"
    assert len(response.content) == int(response.headers["content-length"])
    copy = tmp_path / "copy.db"
    copy.write_bytes(response.content)
    assert restore(copy, tmp_path / "restored" / "cortexd.db") is None
    assert sorted(office.store.snapshots.directory.iterdir()) == before


async def test_a_client_that_leaves_its_backup_leaves_nothing_behind(office: Office) -> None:
    before = sorted(office.store.snapshots.directory.iterdir())
    for _ in range(3):
        asking = asyncio.create_task(office.client.get("/admin/backup"))
        await turns_until(lambda: sorted(office.store.snapshots.directory.iterdir()) != before)
        asking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asking
        await turns_until(lambda: sorted(office.store.snapshots.directory.iterdir()) == before)
    assert (await office.client.get("/admin/backup")).is_success


async def test_whatever_is_asked_beside_the_point_is_refused(office: Office) -> None:
    for path in (f"{SNAPSHOTS}/1", f"{SNAPSHOTS}/1/diff/2", f"{SNAPSHOTS}/export", "/admin/backup", f"{CONFIG}/status"):
        assert_refused(await office.client.get(path, params={"x": "1"}), 400, "invalid_value", "unknown")
    assert_refused(await office.client.post(f"{SNAPSHOTS}/1/pin", params={"x": "1"}), 400, "invalid_value")
    assert_refused(await office.client.get(f"{SNAPSHOTS}/import"), 405, "method_not_allowed")
