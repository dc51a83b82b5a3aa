"""State-tuned initial states over HTTP: uploaded, listed, exported, deleted."""

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from cortexd.api import admin_states
from cortexd.catalogue.spec import ModelSpec
from tests.api.serving import House, serving
from tests.fakes import FakeDaemon
from tests.tuned_states import library, tuned_state, write_state

STATES = "/admin/states"
GOOSE = ModelSpec(name="goose", source="file", layers=2, heads=2, head_size=64, state="muse@1")
POET = {"name": "poet", "layers": 2, "heads": 2, "size": 64, "deleted": False}


@pytest.fixture
async def house(tmp_path: Path) -> AsyncGenerator[House]:
    """A model goose, which starts from the first version of muse, and no states yet."""
    async with library(tmp_path) as states:
        daemon = FakeDaemon(GOOSE)
        daemon.states = states
        async with serving(daemon) as house:
            yield house


def upload(directory: Path, seed: int = 0, kind: str = "pth", **sizes: Any) -> bytes:
    return write_state(directory / f"{seed}.{kind}", tuned_state(seed, **sizes)).read_bytes()


async def put(house: House, name: str, content: bytes, **headers: str) -> httpx.Response:
    return await house.client.put(f"{STATES}/{name}", content=content, headers=headers)


def assert_refused(response: httpx.Response, status: int, code: str, *words: str) -> None:
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    for word in words:
        assert word in response.json()["error"]["message"]


@pytest.mark.parametrize("kind", ["pth", "safetensors"])
async def test_an_upload_of_either_format_is_a_version(house: House, tmp_path: Path, kind: str) -> None:
    content = upload(tmp_path, 1, kind, dtype=torch.bfloat16)
    response = await put(house, "poet", content, **{"x-cortexd-author": "ada"})
    version = response.json()
    assert response.status_code == 200
    assert version.items() >= (POET | {"version": 1, "dtype": "BF16", "author": "ada"}).items()
    assert (await put(house, "poet", content)).json() == version
    newer = (await put(house, "poet", upload(tmp_path, 2))).json()
    assert (newer["version"], newer["author"]) == (2, "admin")
    assert (await house.client.get(STATES)).json() == {"states": [newer]}
    assert (await house.client.get(f"{STATES}/poet")).json() == {"name": "poet", "versions": [newer, version]}


async def test_what_is_exported_can_be_uploaded_again_as_the_same(house: House, tmp_path: Path) -> None:
    versions = [(await put(house, "poet", upload(tmp_path, seed))).json() for seed in (1, 2)]
    for query, version in (("poet/export", versions[1]), ("poet/export?version=1", versions[0])):
        response = await house.client.get(f"{STATES}/{query}")
        assert response.status_code == 200
        assert f"poet%40{version['version']}.safetensors" in response.headers["content-disposition"]
        again = (await put(house, "copy", response.content)).json()
        assert again["content_hash"] == version["content_hash"]
    assert (await house.client.get(f"{STATES}/poet@1/export")).status_code == 200


async def test_what_is_not_there_is_404_and_what_is_no_number_is_400(house: House, tmp_path: Path) -> None:
    await put(house, "poet", upload(tmp_path))
    for path in ("poett", "poett/export", "poet/export?version=2"):
        assert_refused(await house.client.get(f"{STATES}/{path}"), 404, "state_not_found", "poet")
    assert_refused(await house.client.delete(f"{STATES}/poett"), 404, "state_not_found", "poet")
    for wrong in ("0", "-1", "x", "", "9" * 40, "1.0"):
        assert_refused(await house.client.get(f"{STATES}/poet/export?version={wrong}"), 400, "invalid_value", "whole")


async def test_an_export_whose_file_is_gone_says_so(house: House, tmp_path: Path) -> None:
    await put(house, "poet", upload(tmp_path))
    house.daemon.states.path(house.daemon.states.resolve("poet")).unlink()
    assert_refused(await house.client.get(f"{STATES}/poet/export"), 404, "state_not_found", "upload it again")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "poet is damaged or incomplete: it is empty"),
        (b"noise", "poet is damaged"),
        (b"GGUF" + bytes(100), "is a GGUF file"),
        (b"<html>", "poet"),
    ],
)
async def test_what_is_no_state_is_400_in_one_sentence(house: House, content: bytes, words: str) -> None:
    assert_refused(await put(house, "poet", content), 400, "invalid_value", words)
    assert (await house.client.get(STATES)).json() == {"states": []}


async def test_a_name_that_cannot_be_one_is_400(house: House, tmp_path: Path) -> None:
    for name in ("poet@2", "a%20b", "%2E%2Ehidden"):
        assert_refused(await put(house, name, upload(tmp_path)), 400, "invalid_value", "cannot be the name")


@pytest.mark.parametrize("declared", [True, False])
async def test_what_is_too_large_is_413_and_leaves_nothing(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, declared: bool
) -> None:
    content = upload(tmp_path)

    async def bit_by_bit() -> AsyncGenerator[bytes]:
        for start in range(0, len(content), 1000):
            yield content[start : start + 1000]

    monkeypatch.setattr(admin_states, "LARGEST", len(content) - 1)
    response = await house.client.put(f"{STATES}/poet", content=content if declared else bit_by_bit())
    assert_refused(response, 413, "request_too_large", f"larger than {len(content) - 1} bytes")
    assert not list((tmp_path / "states").glob("*"))


async def test_a_state_that_a_model_is_configured_to_start_from_cannot_be_deleted(house: House, tmp_path: Path) -> None:
    for name in ("muse", "poet"):
        await put(house, name, upload(tmp_path))
    assert_refused(await house.client.delete(f"{STATES}/muse"), 409, "conflict", "goose starts from")
    deleted = await house.client.delete(f"{STATES}/poet")
    assert [version["deleted"] for version in deleted.json()["versions"]] == [True]
    assert [state["name"] for state in (await house.client.get(STATES)).json()["states"]] == ["muse"]
    assert_refused(await house.client.get(f"{STATES}/poet/export"), 404, "state_not_found")
    assert (await put(house, "poet", upload(tmp_path))).json()["version"] == 2


async def test_another_method_is_refused_with_those_that_there_are(house: House) -> None:
    for path, allowed in (("poet", {"GET", "HEAD", "PUT", "DELETE"}), ("poet/export", {"GET", "HEAD"})):
        response = await house.client.post(f"{STATES}/{path}")
        assert_refused(response, 405, "method_not_allowed")
        assert set(response.headers["allow"].split(", ")) == allowed


async def test_without_a_data_directory_uploads_are_refused(tmp_path: Path) -> None:
    async with serving(FakeDaemon(GOOSE)) as house:
        assert_refused(await put(house, "poet", upload(tmp_path)), 503, "storage_failed", "no data directory")
        assert (await house.client.get(STATES)).json() == {"states": []}


async def started_from(house: House, **fields: Any) -> list[str]:
    """Hashes of the states that the answers to a chat began with."""
    await house.chat(**fields)
    return [request.state.hash if request.state else "" for request in (g.request for g in house.script.generations)]


async def test_a_request_starts_from_its_own_state_or_the_models_or_none(house: House, tmp_path: Path) -> None:
    muse, poet = [
        (await put(house, name, upload(tmp_path, seed))).json()["content_hash"]
        for seed, name in enumerate(("muse", "poet"))
    ]
    assert (await started_from(house))[-1] == muse
    assert (await started_from(house, state="poet"))[-1] == poet
    assert (await started_from(house, state="poet@1", n=2))[-2:] == [poet, poet]
    assert (await started_from(house, state=""))[-1] == ""
    await house.complete(state="poet")
    assert house.script.generations[-1].request.state.hash == poet


async def test_the_fingerprint_tells_states_apart(house: House, tmp_path: Path) -> None:
    for seed, name in enumerate(("muse", "poet", "twin")):
        await put(house, name, upload(tmp_path, min(seed, 1)))
    prints = [(await house.chat(state=state)).json()["system_fingerprint"] for state in ("", "muse", "poet", "twin")]
    assert len(set(prints)) == 3
    assert prints[2] == prints[3]


async def test_a_state_that_is_not_there_or_does_not_fit_is_said_before_the_model_is_asked(
    house: House, tmp_path: Path
) -> None:
    await put(house, "small", upload(tmp_path, layers=1))
    assert_refused(await house.chat(state="smal"), 404, "state_not_found", "the nearest there is: small")
    assert_refused(
        await house.chat(state="small"), 400, "invalid_value", "has 1 layer of 2 heads", "goose needs 2 layers"
    )
    assert_refused(await house.chat(), 404, "state_not_found", "goose is configured to start from 'muse@1'")
    assert_refused(await house.chat(state=7), 400, "invalid_value", "state must be a string")
    assert not house.script.generations
