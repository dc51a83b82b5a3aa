"""States as managed objects: what is added can be named, is on the disk whole or not at all, and goes when nobody names it."""

import asyncio
import errno
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cortexd import state_library
from cortexd.catalogue.spec import ModelSpec
from cortexd.errors import BadRequest, StoreFailed, StoreFull, UnknownState
from cortexd.state_library import StateLibrary
from tests.tuned_states import library, tuned_state, write_state

GOOSE = ModelSpec(name="goose", source="file", layers=2, heads=2, head_size=64)


def file(directory: Path, seed: int = 0, **sizes: int) -> Path:
    return write_state(directory / f"{seed}.pth", tuned_state(seed, **sizes))


def kept(data: Path) -> list[str]:
    return sorted(path.name for path in (data / "states").glob("*"))


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def test_what_is_added_is_kept_in_fp32_and_found_by_name(tmp_path: Path) -> None:
    path = write_state(tmp_path / "poet.pth", tuned_state(dtype=torch.bfloat16))
    async with library(tmp_path) as states:
        version = await states.add("poet", path, "ada")
        assert (version.layers, version.heads, version.size, version.dtype) == (2, 2, 64, "BF16")
        assert states.resolve("poet") == states.resolve("poet@1") == version
        assert kept(tmp_path) == [f"{version.content_hash}.safetensors"]
        assert states.path(version).stat().st_size == version.bytes
        numbers = load_file(states.path(version))
        assert all(
            torch.equal(numbers[name], tensor.float()) for name, tensor in tuned_state(dtype=torch.bfloat16).items()
        )


async def test_a_new_version_is_what_the_name_means_and_the_old_one_can_still_be_named(tmp_path: Path) -> None:
    async with library(tmp_path) as states:
        first = await states.add("poet", file(tmp_path, 1), "ada")
        second = await states.add("poet", file(tmp_path, 2), "bob")
        assert (states.resolve("poet"), states.resolve("poet@1"), states.newest()) == (second, first, [second])
        assert await states.history("poet") == [second, first]


async def test_the_same_again_is_no_new_version_but_heals_a_file_that_was_lost(tmp_path: Path) -> None:
    async with library(tmp_path) as states:
        first = await states.add("poet", file(tmp_path), "ada")
        states.path(first).unlink()
        assert await states.add("poet", file(tmp_path), "bob") == first
        assert kept(tmp_path) == [states.path(first).name]


async def test_the_next_daemon_has_them_too_and_clears_away_what_was_cut_off(tmp_path: Path) -> None:
    async with library(tmp_path) as states:
        poet = await states.add("poet", file(tmp_path, 1), "ada")
        await states.add("muse", file(tmp_path, 2), "ada")
        await states.delete("muse")
    (tmp_path / "states" / ".part-left").write_bytes(b"half")
    async with library(tmp_path) as states:
        assert states.newest() == [poet]
        assert [version.deleted for version in await states.history("muse")] == [True]
        assert kept(tmp_path) == [states.path(poet).name]


async def test_a_file_goes_with_the_last_name_that_needs_it(tmp_path: Path) -> None:
    async with library(tmp_path) as states:
        shared = await states.add("poet", file(tmp_path, 1), "ada")
        await states.add("poet", file(tmp_path, 2), "ada")
        await states.add("muse", file(tmp_path, 1), "ada")
        await states.delete("poet")
        assert kept(tmp_path) == [states.path(shared).name]
        await states.delete("muse")
        assert kept(tmp_path) == []
        with pytest.raises(UnknownState):
            states.resolve("muse")


async def test_numbers_are_never_given_twice_even_after_a_deletion(tmp_path: Path) -> None:
    async with library(tmp_path) as states:
        await states.add("poet", file(tmp_path), "ada")
        await states.delete("poet")
        assert (await states.add("poet", file(tmp_path), "ada")).version == 2
        with pytest.raises(UnknownState, match="its versions are 2"):
            states.resolve("poet@1")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("poett", "There is no state 'poett'; the nearest there is: poet. Add one with `cortexd state add`."),
        ("Poet", "There is no state 'Poet'; the nearest there is: poet. Add one with `cortexd state add`."),
        ("xyz", "There is no state 'xyz'; the nearest there is: muse, poet. Add one with `cortexd state add`."),
        ("poet@3", "There is no state 'poet@3'; its versions are 1, 2."),
        ("poet@01", "There is no state 'poet@01'; the nearest there is: poet. Add one with `cortexd state add`."),
        ("poet@", "There is no state 'poet@'; the nearest there is: poet. Add one with `cortexd state add`."),
    ],
)
async def test_an_unknown_name_is_refused_with_the_nearest(tmp_path: Path, name: str, sentence: str) -> None:
    async with library(tmp_path) as states:
        for seed, known in enumerate(("poet", "poet", "muse")):
            await states.add(known, file(tmp_path, seed), "ada")
        with pytest.raises(UnknownState) as refused:
            states.resolve(name)
        assert (refused.value.message, refused.value.param) == (sentence, "state")


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "-x", "a/b", "a b", "poet@2", "a\n", "x" * 129])
async def test_what_cannot_be_a_name_is_refused(tmp_path: Path, name: str) -> None:
    async with library(tmp_path) as states:
        with pytest.raises(BadRequest, match="cannot be the name"):
            await states.add(name, file(tmp_path), "ada")


async def test_a_file_that_is_no_state_is_refused_by_its_name_and_leaves_nothing(tmp_path: Path) -> None:
    broken = tuned_state()
    broken["blocks.1.att.time_state"][0, 0, 0] = torch.inf
    async with library(tmp_path) as states:
        with pytest.raises(BadRequest, match=r"^poet has numbers that are not finite in layer 1"):
            await states.add("poet", write_state(tmp_path / "broken.pth", broken), "ada")
        with pytest.raises(BadRequest, match=r"^poet is damaged"):
            await states.receive("poet", chunks(b"no", b"ise"), "ada")
        assert kept(tmp_path) == []
        with pytest.raises(UnknownState, match="there is none"):
            await states.history("poet")


@pytest.mark.parametrize("size", [1, 700, 2**20, 2**30])
async def test_what_arrives_bit_by_bit_is_the_same(tmp_path: Path, size: int) -> None:
    data = write_state(tmp_path / "poet.safetensors", tuned_state(1, layers=1 if size == 1 else 9, size=8)).read_bytes()
    async with library(tmp_path) as states:
        version = await states.receive("poet", chunks(*(data[i : i + size] for i in range(0, len(data), size))), "ada")
        assert states.path(version).read_bytes() == data
        assert kept(tmp_path) == [states.path(version).name]


async def test_an_upload_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"half"
        raise ConnectionError

    async with library(tmp_path) as states:
        with pytest.raises(ConnectionError):
            await states.receive("poet", broken(), "ada")
        assert kept(tmp_path) == []


async def test_a_full_disk_refuses_the_upload_and_what_there_was_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async with library(tmp_path) as states:
        first = await states.add("poet", file(tmp_path, 1), "ada")
        monkeypatch.setattr(state_library, "sync", full)
        with pytest.raises(StoreFull, match="no room to write"):
            await states.add("poet", file(tmp_path, 2), "ada")
        assert states.resolve("poet") == first
        assert kept(tmp_path) == [states.path(first).name]


async def test_many_uploads_at_once_each_get_their_version(tmp_path: Path) -> None:
    async with library(tmp_path) as states:
        files = [file(tmp_path, seed, layers=1, size=8) for seed in range(6)]
        versions = await asyncio.gather(*(states.add("poet", path, "ada") for path in files))
        assert sorted(version.version for version in versions) == [1, 2, 3, 4, 5, 6]
        assert len(kept(tmp_path)) == 6


async def test_without_a_data_directory_nothing_can_be_added_and_nothing_is_there(tmp_path: Path) -> None:
    states = StateLibrary(None, None)
    await states.start()
    assert states.newest() == []
    with pytest.raises(StoreFailed, match="no data directory"):
        await states.add("poet", file(tmp_path), "ada")
    for wanted in (states.history("poet"), states.delete("poet")):
        with pytest.raises(UnknownState):
            await wanted


async def test_a_model_starts_from_a_state_that_fits_it_alone(tmp_path: Path) -> None:
    async with library(tmp_path) as states:
        poet = await states.add("poet", file(tmp_path), "ada")
        states.check(GOOSE, poet)
        swan = ModelSpec(name="swan", source="file", layers=3, heads=2, head_size=64)
        with pytest.raises(BadRequest) as refused:
            states.check(swan, poet)
        assert refused.value.message == (
            "The state poet@1 has 2 layers of 2 heads of 64 x 64, but swan needs 3 layers of 2 heads of 64 x 64."
        )
        with pytest.raises(BadRequest, match="only RWKV models can"):
            states.check(ModelSpec(name="gpt", source="file"), poet)


async def test_a_request_chooses_its_own_state_or_none_or_the_models(tmp_path: Path) -> None:
    async with library(tmp_path) as states:
        poet = await states.add("poet", file(tmp_path, 1), "ada")
        muse = await states.add("muse", file(tmp_path, 2), "ada")
        own = ModelSpec(name="goose", source="file", layers=2, heads=2, head_size=64, state="poet")
        chosen = {None: poet, "": None, "muse": muse, "muse@1": muse}
        for asked, expected in chosen.items():
            initial = states.initial(own, asked)
            assert (initial and initial.hash) == (expected and expected.content_hash)
            assert initial is None or Path(initial.path).is_file()
        assert states.initial(GOOSE) is None


async def test_a_state_that_a_model_is_configured_to_start_from_is_blamed_on_its_configuration(tmp_path: Path) -> None:
    states = StateLibrary(None, None)
    astray = ModelSpec(name="goose", source="file", layers=2, heads=2, head_size=64, state="poet")
    with pytest.raises(UnknownState, match=r"^goose is configured to start from 'poet': There is no state 'poet'"):
        states.initial(astray)


def test_a_state_is_no_reason_to_load_a_model_again() -> None:
    assert ModelSpec(name="goose", source="file", state="poet").hash == ModelSpec(name="goose", source="file").hash
