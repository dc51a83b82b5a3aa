"""The configuration over HTTP: read, replaced, patched; and whoever comes late is told."""

import asyncio
import json
import tomllib
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from cortexd.change_plan import ChangePlan, Refused
from cortexd.config import Settings, content_hash
from tests.api.configured import CONFIG, MERGE, TOML, Office, configured
from tests.api.test_admin import assert_refused

PATIENCE = {"lifecycle": {"keep_alive": "10m"}}


@pytest.fixture
async def office(tmp_path: Path) -> AsyncGenerator[Office]:
    async with configured(tmp_path) as office:
        yield office


def document(response: httpx.Response) -> dict[str, Any]:
    return response.json()["document"]


async def test_the_document_in_force_is_told_with_its_version(office: Office) -> None:
    response = await office.client.get(CONFIG)
    told = response.json()
    digest = content_hash(office.configuration.document)
    assert (told["version"], told["hash"]) == (1, digest)
    assert response.headers["etag"] == f'"v1-{digest[:12]}"'
    assert (told["document"]["lifecycle"]["keep_alive"], told["document"]["model"][0]["name"]) == (300.0, "goose")
    assert "settings" not in told
    assert told["document"]["server"]["drain_s"] == Settings().server.drain_s  # a flag lies over it


async def test_what_is_in_force_is_told_with_its_origin(office: Office) -> None:
    settings = (await office.client.get(CONFIG, params={"origin": "true"})).json()["settings"]
    assert settings["server.drain_s"] == {"value": 60.0, "origin": "--set server.drain_s"}
    assert settings["model[0].name"] == {"value": "goose", "origin": "version 1"}
    assert settings["lifecycle.max_wait"]["origin"] == "default"


async def test_as_toml_the_document_is_a_file_that_gives_the_same(office: Office) -> None:
    response = await office.client.get(CONFIG, params={"format": "toml"})
    assert response.headers["content-type"].startswith("application/toml")
    again = await office.client.put(
        CONFIG, content=response.content, headers={**TOML, "if-match": response.headers["etag"]}
    )
    assert (again.json()["version"], again.json()["changed"], again.json()["changes"]) == (1, False, [])
    told = (await office.client.get(CONFIG, params={"format": "toml", "origin": "1"})).text
    assert tomllib.loads(told)["server"]["drain_s"] == "1m"
    assert "# --set server.drain_s" in told


async def test_who_knows_it_already_is_not_told_again(office: Office) -> None:
    tag = await office.tag()
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        response = await office.client.get(CONFIG, headers={"if-none-match": known})
        assert (response.status_code, response.content, response.headers["etag"]) == (304, b"", tag)
    assert (await office.client.get(CONFIG, headers={"if-none-match": '"v9-123456789abc"'})).status_code == 200


async def test_a_document_is_replaced_whole(office: Office) -> None:
    headers = {"if-match": await office.tag(), "x-cortexd-author": "ann", "x-cortexd-source": "cli"}
    wanted = {"lifecycle": {"keep_alive": 600}}
    response = await office.client.put(CONFIG, json=wanted, headers=headers, params={"reason": "more  patience"})
    outcome = response.json()
    assert (response.status_code, outcome["version"], outcome["changed"], outcome["revert_at"]) == (200, 2, True, None)
    assert {".".join(change["path"]) for change in outcome["changes"]} == {"lifecycle.keep_alive", "model.goose"}
    assert response.headers["etag"] == await office.tag()
    assert office.subject.adopted[-1][1] == 2
    kept = (await office.store.snapshots.history())[0]
    assert (kept.author, kept.reason, kept.source) == ("ann", "more patience", "cli")


async def test_a_file_is_put_as_it_is(office: Office) -> None:
    headers = {**TOML, "if-match": "*"}
    text = '[[model]]\nname = "swan"\nkeep_alive = "1h"\n'
    assert (await office.client.put(CONFIG, content=text, headers=headers)).json()["version"] == 2
    assert document(await office.client.get(CONFIG))["model"][0]["keep_alive"] == 3600.0
    wrong = await office.client.put(CONFIG, content="[server]\nport = 1\nhots = 2", headers=headers)
    assert_refused(wrong, 400, "invalid_configuration", "body:3: server.hots is not a setting")
    assert_refused(
        await office.client.put(CONFIG, content="[server", headers=headers), 400, "invalid_configuration", "body:1"
    )


async def test_a_merge_patch_finds_models_by_their_names(office: Office) -> None:
    outcome = (await office.patch({"model": {"goose": {"pin": True}, "swan": {"keep_alive": "1h"}}})).json()
    assert [".".join(change["path"]) for change in outcome["changes"]] == ["model.goose.pin", "model.swan"]
    models = {model["name"]: model for model in document(await office.client.get(CONFIG))["model"]}
    assert (models["goose"]["pin"], models["swan"]["keep_alive"]) == (True, 3600.0)
    assert (await office.patch({"model": {"goose": None}})).json()["version"] == 3
    assert [model["name"] for model in document(await office.client.get(CONFIG))["model"]] == ["swan"]


async def test_json_is_a_merge_patch_where_nothing_else_is_said(office: Office) -> None:
    response = await office.client.patch(CONFIG, json=PATIENCE, headers={"if-match": "*"})
    assert response.json()["changed"]


async def test_a_json_patch_is_applied_if_its_tests_hold(office: Office) -> None:
    headers = {"content-type": "application/json-patch+json", "if-match": "*"}
    patch = [
        {"op": "test", "path": "/lifecycle/keep_alive", "value": 300},
        {"op": "replace", "path": "/lifecycle/keep_alive", "value": "10m"},
    ]
    assert (await office.client.patch(CONFIG, json=patch, headers=headers)).json()["version"] == 2
    assert_refused(await office.client.patch(CONFIG, json=patch, headers=headers), 409, "conflict", "operation 0")
    whole = [{"op": "replace", "path": "", "value": [1]}]
    assert_refused(await office.client.patch(CONFIG, json=whole, headers=headers), 400, "invalid_value", "JSON object")
    assert (await office.tag()).startswith('"v2-')


async def test_what_is_in_force_already_makes_no_version(office: Office) -> None:
    response = await office.patch({"lifecycle": {"keep_alive": 300}})
    assert (response.json()["changed"], response.json()["version"]) == (False, 1)
    assert response.headers["etag"] == await office.tag()


async def test_a_dry_run_says_what_would_be_and_changes_nothing(office: Office) -> None:
    office.subject.plan = ChangePlan(
        relabelled=["goose"], refused=[Refused(model="swan", reason="damaged")], daemon=["server.port"]
    )
    before = await office.tag()
    response = await office.patch({**PATIENCE, "server": {"port": 1}}, dry_run="true")
    outcome = response.json()
    assert (outcome["changed"], outcome["version"], response.headers["etag"]) == (False, 1, before)
    assert len(outcome["changes"]) == 2
    assert outcome["plan"]["refused"] == [{"model": "swan", "reason": "damaged", "falls_back": False}]
    assert (outcome["plan"]["relabelled"], outcome["plan"]["daemon"]) == (["goose"], ["server.port"])
    assert await office.tag() == before
    assert_refused(await office.patch({"server": {"port": -1}}, dry_run="true"), 400, "invalid_configuration", "port")


async def test_a_change_may_have_to_be_confirmed(office: Office) -> None:
    outcome = (await office.patch(PATIENCE, confirm_within="2m")).json()
    (kept, _) = await office.store.snapshots.history()
    assert outcome["revert_at"] == pytest.approx(kept.created_at + 120)
    status = (await office.client.get(f"{CONFIG}/status")).json()
    assert (status["version"], status["confirmed"], status["revert_at"]) == (2, 1, outcome["revert_at"])
    confirmed = (await office.client.post("/admin/snapshots/2/confirm")).json()
    assert (confirmed["confirmed"], confirmed["revert_at"]) == (2, None)


async def test_a_change_without_its_precondition_is_428(office: Office) -> None:
    for method, path in (
        ("PUT", CONFIG),
        ("PATCH", CONFIG),
        ("POST", "/admin/snapshots/1/rollback"),
        ("POST", "/admin/snapshots/import"),
    ):
        response = await office.client.request(method, path, json={})
        assert_refused(response, 428, "precondition_required", "If-Match is missing")
    assert (await office.tag()).startswith('"v1-')


async def test_a_stale_change_is_412_and_says_what_has_changed(office: Office) -> None:
    stale = await office.tag()
    await office.patch(PATIENCE, reason="more patience")
    for query in ({}, {"dry_run": "true"}):
        refused = await office.patch({"lifecycle": {"max_wait": 5}}, match=stale, **query)
        assert_refused(refused, 412, "stale_version", "Version 2", "lifecycle.keep_alive", "more patience")
        error = refused.json()["error"]
        assert (error["current"], error["changed"]) == (2, ["lifecycle.keep_alive"])
    assert (await office.patch({"lifecycle": {"max_wait": 5}}, match=f"{stale}, {await office.tag()}")).is_success


async def test_the_same_version_of_another_database_is_stale(office: Office) -> None:
    refused = await office.patch(PATIENCE, match='"v1-0123456789ab"')
    assert_refused(refused, 412, "stale_version", "database was replaced")
    assert refused.json()["error"]["current"] == 1


@pytest.mark.parametrize(
    "match", ["v1-0123456789ab", '"v1"', 'W/"v1-0123456789ab"', "", '*, "v1-0123456789ab"', f'"v{"9" * 30}-{"a" * 12}"']
)
async def test_a_malformed_precondition_is_400(office: Office, match: str) -> None:
    response = await office.client.patch(CONFIG, json=PATIENCE, headers={"if-match": match})
    assert_refused(response, 400, "invalid_value", "If-Match must be", await office.tag())


async def test_of_two_admins_who_race_one_wins_and_the_other_sees_what_changed(office: Office) -> None:
    for number in range(10):
        tag = await office.tag()
        answers = await asyncio.gather(
            office.patch({"lifecycle": {"keep_alive": 1000 + number}}, match=tag, reason="ann wants it"),
            office.patch({"lifecycle": {"max_wait": 1000 + number}}, match=tag, reason="bob wants it"),
        )
        won, lost = sorted(answers, key=lambda answer: answer.status_code)
        assert (won.status_code, lost.status_code) == (200, 412)
        (change,) = won.json()["changes"]
        error = lost.json()["error"]
        assert (error["current"], error["changed"]) == (won.json()["version"], [".".join(change["path"])])
        assert won.json()["version"] == number + 2


async def test_the_file_is_looked_at_now(office: Office) -> None:
    assert (await office.client.post(f"{CONFIG}/reload")).json() == {"changed": False}
    office.file.write_text("[lifecycle]\nkeep_alive = 7\n")
    response = await office.client.post(f"{CONFIG}/reload")
    assert (response.json()["version"], response.json()["changed"]) == (2, True)
    assert response.headers["etag"] == await office.tag()
    office.file.write_text("[lifecycle]\nkeep_alive = -\n")
    assert_refused(await office.client.post(f"{CONFIG}/reload"), 400, "invalid_configuration", f"{office.file}:2")
    status = (await office.client.get(f"{CONFIG}/status")).json()
    assert (status["version"], status["file_state"]) == (2, "not applied")
    assert f"{office.file}:2" in status["problem"]


@pytest.mark.parametrize(
    ("query", "word"),
    [
        ({"dryrun": "true"}, "unknown"),
        ({"dry_run": "maybe"}, "dry_run"),
        ({"confirm_within": "0"}, "confirm_within"),
        ({"confirm_within": "-1"}, "confirm_within"),
        ({"confirm_within": "nan"}, "confirm_within"),
        ({"confirm_within": "8d"}, "confirm_within"),
        ({"confirm_within": "soon"}, "confirm_within"),
        ({"reason": "x" * 1001}, "reason"),
        ({"reason": "\x1b[2J"}, "reason"),
    ],
)
async def test_terms_that_make_no_sense_are_refused(office: Office, query: dict[str, str], word: str) -> None:
    assert_refused(await office.patch(PATIENCE, **query), 400, "invalid_value", word)
    assert (await office.tag()).startswith('"v1-')


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"", "empty"),
        (b"{", "not valid JSON"),
        (b'{"lifecycle": {"keep_alive": NaN}}', "not valid JSON"),
        (b'{"a": "\\ud800"}', "surrogate"),
        (b"\xff", "JSON"),
        (b"[1]", "JSON object"),
        (b"null", "JSON object"),
        (b'{"a":' * 70 + b"1" + b"}" * 70, "too deeply"),
        (b'{"a":' * 100_000, "too deeply"),
        (b'{"lifecycle": {"keep_alive": 1e999}}', ""),
        (b'{"server": {"port": ' + b"9" * 5000 + b"}}", ""),
        (b'{"server": 1}', "not a table"),
        (b'{"model": {"dodo": {}}}', "dodo"),
        (b'{"model": {"goose": 5}}', "not a table"),
        (b'{"model": 5}', "array of tables"),
        (b'{"models": {"directories": ["/a\\u0000"]}}', "not a list of strings"),
        (b'{"model": [{"name": "goose", "path": "a\\u0000b"}]}', "not a string"),
        (b'{"model": [{"pin": true}]}', "name"),
    ],
)
async def test_a_body_that_is_no_configuration_is_told_why(office: Office, body: bytes, word: str) -> None:
    for method in ("PUT", "PATCH"):
        response = await office.client.request(method, CONFIG, content=body, headers={"if-match": "*"})
        assert response.status_code == 400, (method, response.text)
        assert (word in response.json()["error"]["message"]) or method == "PUT"
    assert (await office.tag()).startswith('"v1-')


async def test_only_what_is_understood_is_taken(office: Office) -> None:
    form = {"content-type": "application/x-www-form-urlencoded", "if-match": "*"}
    for method in ("PUT", "PATCH"):
        response = await office.client.request(method, CONFIG, content=b"{}", headers=form)
        assert_refused(response, 400, "invalid_value", f"The content-type of {method}")
    assert_refused(
        await office.client.put(CONFIG, content=b"\xff", headers={**TOML, "if-match": "*"}),
        400,
        "invalid_value",
        "UTF-8",
    )
    assert_refused(await office.client.get(CONFIG, params={"format": "yaml"}), 400, "invalid_value", "format")
    assert_refused(
        await office.client.post(f"{CONFIG}/reload", params={"dry_run": "true"}), 400, "invalid_value", "unknown"
    )


async def test_a_body_that_is_too_large_is_413(office: Office) -> None:
    body = b" " * (2**21 + 1)
    for headers in (MERGE, TOML):
        method = "PATCH" if headers is MERGE else "PUT"
        response = await office.client.request(method, CONFIG, content=body, headers={**headers, "if-match": "*"})
        assert_refused(response, 413, "request_too_large")


async def test_a_file_of_one_endless_statement_is_read_in_no_time(office: Office) -> None:
    text = f"[models]\ndirectories = [\n{chr(10) * 300_000}]\n[server]\nport = -1"
    async with asyncio.timeout(20):
        response = await office.client.put(CONFIG, content=text, headers={**TOML, "if-match": "*"})
    assert_refused(response, 400, "invalid_configuration", "server.port")


async def test_of_very_much_that_is_wrong_not_all_is_said(office: Office) -> None:
    body = {f"key{number}": 1 for number in range(50_000)}
    response = await office.client.put(CONFIG, json=body, headers={"if-match": "*"})
    assert_refused(response, 400, "invalid_configuration", "key99 is not a setting")
    assert len(response.content) < 50_000


async def test_what_the_document_cannot_hold_is_never_kept(office: Office) -> None:
    json_patch = {"content-type": "application/json-patch+json", "if-match": "*"}
    doubling = [{"op": "add", "path": "/model/0/x", "value": "y" * 1000}]
    doubling += [{"op": "copy", "from": "/model", "path": "/model/-"} for _ in range(60)]
    response = await office.client.patch(CONFIG, content=json.dumps(doubling), headers=json_patch)
    assert_refused(response, 400, "invalid_value", "copies more than")
    kept = await office.store.snapshots.history()
    assert [msgspec.json.decode(snapshot.body, type=Settings) for snapshot in kept] == [office.configuration.document]
