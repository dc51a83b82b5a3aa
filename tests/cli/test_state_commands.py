"""`cortexd state` against a daemon of fakes, with real states, on a real socket."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from safetensors.torch import load_file

from cortexd.api import admin_states
from cortexd.catalogue.spec import ModelSpec
from cortexd.cli.client import ConnectionLost, connect, download
from tests.api.serving import House, serving
from tests.cli.test_admin_commands import cortexd, printed
from tests.fakes import FakeDaemon
from tests.tuned_states import library, tuned_state, write_state


@pytest.fixture
async def house(tmp_path: Path) -> AsyncGenerator[House]:
    async with library(tmp_path) as states:
        daemon = FakeDaemon(ModelSpec(name="goose", source="file", state="muse"))
        daemon.states = states
        async with serving(daemon) as house:
            yield house


def file(directory: Path, seed: int = 0) -> str:
    return str(write_state(directory / f"{seed}.pth", tuned_state(seed)))


async def test_states_are_added_listed_exported_and_removed(house: House, tmp_path: Path) -> None:
    assert await cortexd(house, "state", "add", "poet", file(tmp_path)) == (0, "poet@1: 2 x 2 x 64 x 64, 65.7 KB\n", "")
    assert (await printed(house, "state", "add", "poet", file(tmp_path, 1)))["version"] == 2
    (state,) = await printed(house, "state", "list")
    assert (state["name"], state["version"]) == ("poet", 2)
    exported = tmp_path / "out.safetensors"
    assert await cortexd(house, "state", "export", "poet@1", str(exported)) == (0, f"{exported}\n", "")
    assert load_file(exported)["blocks.1.att.time_state"].equal(tuned_state()["blocks.1.att.time_state"])
    assert await cortexd(house, "state", "rm", "poet") == (0, "poet: deleted\n", "")
    assert await printed(house, "state", "list") == []
    assert [state["deleted"] for state in await printed(house, "state", "list", "poet")] == [True, True]


async def test_a_list_says_what_each_version_is(house: House, tmp_path: Path) -> None:
    await cortexd(house, "state", "add", "poet", file(tmp_path))
    assert (await cortexd(house, "state", "list")).out.splitlines()[-1].split()[:6] == [
        *("poet@1", "2", "2", "64"),
        *("x", "64"),
    ]
    await cortexd(house, "state", "rm", "poet")
    assert "poet@1 (deleted)" in (await cortexd(house, "state", "list", "poet")).out


async def test_what_is_refused_says_why_and_ends_with_its_own_code(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cortexd(house, "state", "add", "muse", file(tmp_path))
    unknown = "cortexd: There is no state 'mus'; the nearest there is: muse. Add one with `cortexd state add`.\n"
    out = tmp_path / "out"
    for command in (["list", "mus"], ["rm", "mus"], ["export", "mus", str(out)]):
        assert await cortexd(house, "state", *command) == (4, "", unknown)
    assert not out.exists()
    used = await cortexd(house, "state", "rm", "muse")
    assert (used.code, used.err) == (
        5,
        "cortexd: The state muse is what goose starts from; take it out of the configuration first.\n",
    )
    noise = tmp_path / "noise"
    noise.write_bytes(b"noise")
    refused = await cortexd(house, "state", "add", "poet", str(noise))
    assert refused.code == 1
    assert "poet is damaged" in refused.err
    monkeypatch.setattr(admin_states, "LARGEST", 1000)
    refused = await cortexd(house, "state", "add", "poet", file(tmp_path))
    assert (refused.code, "larger than 1000 bytes" in refused.err) == (1, True)


async def test_an_export_overwrites_nothing(house: House, tmp_path: Path) -> None:
    await cortexd(house, "state", "add", "poet", file(tmp_path))
    mine = tmp_path / "mine"
    mine.write_text("mine")
    done = await cortexd(house, "state", "export", "poet", str(mine))
    assert (done.code, done.err) == (1, f"cortexd: {mine} cannot be written (File exists).\n")
    assert mine.read_text() == "mine"


async def test_an_export_goes_into_a_file_of_its_name(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cortexd(house, "state", "add", "poet", file(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert (await cortexd(house, "state", "export", "poet@1")).out == "poet@1.safetensors\n"
    assert (tmp_path / "poet@1.safetensors").is_file()


async def test_an_export_that_is_cut_off_leaves_no_file(tmp_path: Path) -> None:
    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
        writer.close()

    server = await asyncio.start_server(cut, "127.0.0.1", 0)
    async with server, connect(f"127.0.0.1:{server.sockets[0].getsockname()[1]}") as client:
        with pytest.raises(ConnectionLost):
            await download(client, "/admin/states/poet/export", tmp_path / "out")
    assert not (tmp_path / "out").exists()
