"""With the kernel's own events, hence in real time; what is decided by the clock is tested without one."""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import pytest

from cortexd.watch import Sight, Stillness, Watch

DEADLINE = 15.0  # seconds: less than until a look that no event asks for


class Reader:
    """Who is told of changes, and reads then: what is in the files, and which there are in the directories."""

    def __init__(self, *places: Path, still_s: float = 0.3) -> None:
        self.places = list(places)
        self.before_each_look: Callable[[], None] = lambda: None
        self.told: asyncio.Queue[dict[Path, object]] = asyncio.Queue()
        self.watch = Watch(self._places, self._read, still_s=still_s)

    def _places(self) -> list[Path]:
        self.before_each_look()
        return self.places

    async def _read(self, changed: set[Path]) -> None:
        self.told.put_nowait({place: content(place) for place in changed})

    async def until(self, place: Path, expected: object) -> None:
        """Until it has been told, and has found this."""
        async with asyncio.timeout(DEADLINE):
            while (await self.told.get()).get(place) != expected:
                pass

    async def all_of(self, *places: Path) -> None:
        """Until each of them has been told."""
        missing = {*places}
        async with asyncio.timeout(DEADLINE):
            while missing:
                missing -= (await self.told.get()).keys()

    async def notices_two_files(self, directory: Path, *there: str) -> None:
        """Two, for the first may be found by a watch that begins after it came, and is deaf."""
        await self.until(directory, {*there})
        for number in (1, 2):
            there = (*there, f"{number}.pth")
            (directory / f"{number}.pth").touch()
            await self.until(directory, {*there})


def content(place: Path) -> object:
    if place.is_dir():
        return {entry.name for entry in place.iterdir()}
    return place.read_text() if place.exists() else None


@contextlib.asynccontextmanager
async def reading(*places: Path, still_s: float = 0.3) -> AsyncGenerator[Reader]:
    """Once it has been told of each, for the watch began."""
    reader = Reader(*places, still_s=still_s)
    running = asyncio.create_task(reader.watch.run())
    try:
        await reader.all_of(*places)
        yield reader
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def replace(path: Path, new: Path) -> None:
    path.rename(path.with_name("old"))
    new.rename(path)


async def test_a_refresh_with_the_same_places_loses_no_change(tmp_path: Path):
    file = tmp_path / "cortexd.toml"
    async with reading(tmp_path, file) as reader:
        for number in range(10):
            reader.watch.refresh()
            await asyncio.sleep(0)
            (tmp_path / f"{number}.pth").touch()
            file.write_text(str(number))
        await reader.until(file, "9")
        (tmp_path / "last.pth").touch()
        await reader.until(tmp_path, {*(f"{number}.pth" for number in range(10)), "last.pth", file.name})


async def test_a_refresh_with_the_same_places_begins_no_other_watch(tmp_path: Path):
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    async with reading(first, second) as reader:
        looked = asyncio.Event()
        reader.before_each_look = looked.set
        reader.watch.refresh()
        await looked.wait()
        (second / "goose.pth").touch()
        async with asyncio.timeout(DEADLINE):
            assert await reader.told.get() == {second: {"goose.pth"}}


async def test_a_watch_that_begins_tells_of_all_places_for_no_event_tells_what_changed_before(tmp_path: Path):
    first, second, file = tmp_path / "first", tmp_path / "second", tmp_path / "cortexd.toml"
    first.mkdir()
    second.mkdir()
    async with reading(first, file) as reader:
        reader.places = [first, second, file]
        reader.watch.refresh()
        await reader.all_of(first, second, file)


async def test_a_file_is_told_of_only_when_it_is_whole(tmp_path: Path):
    file = tmp_path / "cortexd.toml"
    file.write_text("all")
    pieces = list("half and half")
    async with reading(file) as reader:
        with file.open("w") as writing:

            def write_on() -> None:
                if pieces:
                    writing.write(pieces.pop(0))
                    writing.flush()
                    reader.watch.refresh()

            reader.before_each_look = write_on
            async with asyncio.timeout(DEADLINE):
                assert await reader.told.get() == {file: "half and half"}


async def test_a_file_that_editors_replace_is_still_watched(tmp_path: Path):
    file = tmp_path / "cortexd.toml"
    file.write_text("0")
    async with reading(file) as reader:
        for number in "12":
            new = tmp_path / "new"
            new.write_text(number)
            new.replace(file)
            await reader.until(file, number)
        file.unlink()
        await reader.until(file, None)
        file.write_text("3")
        await reader.until(file, "3")


async def test_a_directory_renamed_over_is_still_watched(tmp_path: Path):
    models, new = tmp_path / "models", tmp_path / "new"
    models.mkdir()
    async with reading(models) as reader:
        new.mkdir()
        (new / "goose.pth").touch()
        replace(models, new)
        await reader.notices_two_files(models, "goose.pth")


async def test_a_directory_made_again_is_still_watched_even_if_it_gets_the_same_inode(tmp_path: Path):
    models = tmp_path / "models"
    models.mkdir()
    (models / "goose.pth").touch()
    async with reading(models) as reader:
        shutil.rmtree(models)
        models.mkdir()
        await reader.notices_two_files(models)


async def test_a_directory_whose_parent_is_replaced_is_still_watched(tmp_path: Path):
    parent = tmp_path / "parent"
    (parent / "models").mkdir(parents=True)
    async with reading(parent / "models") as reader:
        new = tmp_path / "new"
        (new / "models").mkdir(parents=True)
        (new / "models" / "goose.pth").touch()
        replace(parent, new)
        await reader.notices_two_files(parent / "models", "goose.pth")


async def test_a_directory_whose_grandparent_is_replaced_is_watched_again_from_the_next_look_on(tmp_path: Path):
    top = tmp_path / "top"
    (top / "parent" / "models").mkdir(parents=True)
    async with reading(top / "parent" / "models") as reader:
        new = tmp_path / "new"
        (new / "parent" / "models").mkdir(parents=True)
        replace(top, new)
        reader.watch.refresh()
        await reader.notices_two_files(top / "parent" / "models")


@pytest.mark.parametrize("above", [False, True])
async def test_a_directory_behind_a_link_that_is_switched_is_still_watched(tmp_path: Path, above: bool):
    """Itself a link, or one of the directories that it is in."""
    for release in ("one", "two"):
        (tmp_path / "releases" / release / "models").mkdir(parents=True)
    (tmp_path / "releases" / "two" / "models" / "goose.pth").touch()

    def target(release: str) -> Path:
        return tmp_path / "releases" / release / ("" if above else "models")

    link = tmp_path / "current"
    link.symlink_to(target("one"))
    place = link / "models" if above else link
    async with reading(place) as reader:
        (tmp_path / "new").symlink_to(target("two"))
        (tmp_path / "new").replace(link)
        await reader.notices_two_files(place, "goose.pth")


async def test_an_edit_of_the_file_behind_links_is_told(tmp_path: Path):
    """As Kubernetes mounts a configuration: the file is a link into a directory that is a link, which is switched."""
    for release in ("one", "two"):
        (tmp_path / "mounts" / release).mkdir(parents=True)
        (tmp_path / "mounts" / release / "cortexd.toml").write_text(release)
    data = tmp_path / "mounts" / "data"
    data.symlink_to("one")
    file = tmp_path / "etc" / "cortexd.toml"
    file.parent.mkdir()
    file.symlink_to(Path("..", "mounts", "data", "cortexd.toml"))
    async with reading(file) as reader:
        (tmp_path / "mounts" / "one" / "cortexd.toml").write_text("edited")
        await reader.until(file, "edited")
        (tmp_path / "new").symlink_to("two")
        (tmp_path / "new").replace(data)
        await reader.until(file, "two")
        (tmp_path / "mounts" / "two" / "cortexd.toml").write_text("edited too")
        await reader.until(file, "edited too")


async def test_links_that_lead_in_a_circle_do_not_end_the_watch(tmp_path: Path):
    (tmp_path / "a").mkdir()
    here, there = tmp_path / "here", tmp_path / "there"
    here.symlink_to(Path("a", "..", "there"))
    there.symlink_to(Path("a", "..", "here"))
    async with reading(here) as reader:
        here.unlink()
        here.mkdir()
        await reader.notices_two_files(here)


async def test_places_that_are_not_there_yet_are_found_when_they_come(tmp_path: Path):
    models, file = tmp_path / "data" / "models", tmp_path / "config" / "cortexd" / "cortexd.toml"
    async with reading(models, file) as reader:
        file.parent.mkdir(parents=True)
        file.write_text("here")
        await reader.until(file, "here")
        models.mkdir(parents=True)
        await reader.notices_two_files(models)


async def test_a_daemon_that_watches_nothing_hears_of_its_first_place(tmp_path: Path):
    async with reading() as reader:
        reader.places = [tmp_path]
        reader.watch.refresh()
        await reader.notices_two_files(tmp_path)


FILE, MODELS = Path("/etc/cortexd.toml"), Path("/models")


def sights(file: int, models: int = 0) -> dict[Path, Sight]:
    return {FILE: Sight(str(FILE), False, (file,)), MODELS: Sight(str(MODELS), True, (models,))}


def test_a_directory_needs_no_patience_and_a_file_is_still_only_after_it():
    stillness = Stillness(1.0)
    assert stillness.settled(sights(1), {FILE}, 10.0) == {MODELS}
    assert stillness.settled(sights(2, models=1), set(), 10.9) == {MODELS}
    assert stillness.left(10.9, 30.0) == 1.0
    assert stillness.settled(sights(2, models=1), set(), 11.5) == set()
    assert stillness.settled(sights(2, models=1), set(), 11.9) == {FILE}
    assert stillness.left(11.9, 30.0) == 30.0
    assert stillness.settled(sights(2, models=1), set(), 50.0) == set()


def test_what_an_event_names_is_told_though_it_looks_as_before():
    stillness = Stillness(1.0)
    stillness.settled(sights(1), set(), 0.0)
    stillness.settled(sights(1), set(), 1.0)
    assert stillness.settled(sights(1), {FILE, MODELS}, 2.0) == {MODELS}
    assert stillness.settled(sights(1), {FILE}, 2.5) == set()
    assert stillness.settled(sights(1), set(), 3.0) == set()
    assert stillness.settled(sights(1), set(), 3.5) == {FILE}


def test_a_change_that_no_event_told_is_found_by_the_next_look():
    stillness = Stillness(0.0)
    assert stillness.settled(sights(1), set(), 0.0) == {FILE, MODELS}
    assert stillness.settled(sights(1), set(), 30.0) == set()
    assert stillness.settled(sights(2, models=2), set(), 60.0) == {FILE, MODELS}


def test_a_file_that_is_no_place_any_more_is_forgotten():
    stillness = Stillness(1.0)
    stillness.settled(sights(1), set(), 0.0)
    assert stillness.settled({}, set(), 5.0) == set()
    assert stillness.left(5.0, 30.0) == 30.0
