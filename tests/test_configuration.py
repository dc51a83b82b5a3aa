import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cortexd.change_plan import ChangePlan
from cortexd.config import Settings, Sources
from cortexd.configuration import Configuration, Outcome
from cortexd.errors import InvalidConfiguration, StaleVersion, StoreFailed, StoreFull, UnknownVersion
from cortexd.events import ConfigurationChanged, ConfigurationRefused, Event
from cortexd.store.snapshot import Origin
from cortexd.store.store import Store

ADMIN = Origin(author="ada", reason="because", source="api")


class Prepared(msgspec.Struct):
    settings: Settings
    plan: ChangePlan = ChangePlan()


class Subject:
    """In the place of the daemon: takes everything but strategies called bad."""

    def __init__(self) -> None:
        self.adopted: list[tuple[Settings, int | None]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def prepare(self, settings: Settings, *, strict: bool) -> Prepared:
        await self.gate.wait()
        if strict and settings.engine.strategy == "bad":
            raise InvalidConfiguration("The strategy is bad.")
        return Prepared(settings)

    def adopt(self, prepared: Prepared, version: int | None) -> None:
        self.adopted.append((prepared.settings, version))


class House:
    """A configuration over a real store, that can be started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "cortexd.toml"
        self.environment: dict[str, str] = {"HOME": str(folder)}
        self.told: list[Event] = []

    async def start(self) -> Configuration[Prepared]:
        self.store = Store(self.folder / "cortexd.db", _bug)
        await self.store.start()
        self.subject = Subject()
        sources = Sources(file=self.file, environment=self.environment)
        self.configuration = Configuration(sources, self.subject, self.told.append, self.store.snapshots)
        await self.configuration.start()
        return self.configuration

    async def restart(self) -> Configuration[Prepared]:
        await self.store.close()
        return await self.start()

    def write(self, text: str) -> None:
        self.file.write_text(text)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncGenerator[House]:
    house = House(tmp_path)
    yield house
    await house.store.close()


async def test_the_first_version_is_what_the_file_says_over_the_defaults(house: House) -> None:
    house.write('[lifecycle]\nkeep_alive = "10m"\n')
    configuration = await house.start()
    assert configuration.version == 1
    assert configuration.settings.lifecycle.keep_alive == 600
    assert (await configuration.snapshots.get(1)).source == "boot"
    assert house.subject.adopted == [(configuration.settings, 1)]


async def test_environment_and_flags_lie_over_what_is_kept_and_never_become_part_of_it(house: House) -> None:
    house.environment["CORTEXD_LIFECYCLE__KEEP_ALIVE"] = "1m"
    configuration = await house.start()
    assert configuration.settings.lifecycle.keep_alive == 60
    assert configuration.document.lifecycle.keep_alive == 300
    await configuration.change(_keep_alive(900), ADMIN)
    assert configuration.settings.lifecycle.keep_alive == 60
    del house.environment["CORTEXD_LIFECYCLE__KEEP_ALIVE"]
    assert (await house.restart()).settings.lifecycle.keep_alive == 900


async def test_origins_tell_the_version_for_what_it_sets(house: House) -> None:
    house.environment["CORTEXD_ENGINE__THREADS"] = "3"
    configuration = await house.start()
    await configuration.change(_keep_alive(900), ADMIN)
    origins = configuration.reading.origins
    assert origins["lifecycle", "keep_alive"] == "version 2"
    assert origins["lifecycle", "max_wait"] == "default"
    assert origins["engine", "threads"] == "CORTEXD_ENGINE__THREADS"


async def test_a_change_of_the_file_is_a_version_and_its_comments_are_none(house: House) -> None:
    house.write("[lifecycle]\nkeep_alive = 10\n")
    configuration = await house.start()
    assert await configuration.reload() is None
    house.write("# for the night\n[lifecycle]\nkeep_alive = 10  # seconds\n")
    assert await configuration.reload() is None
    house.write("[lifecycle]\nkeep_alive = 20\n")
    outcome = await configuration.reload()
    assert outcome is not None
    assert outcome.version == 2
    assert [change.key for change in outcome.changes] == ["lifecycle.keep_alive"]
    assert house.told[1:] == [
        ConfigurationChanged(
            at=house.told[1].at, version=2, source="file", author="cortexd", reason="cortexd.toml has changed",
            restored_from=None, changed=["lifecycle.keep_alive"],
        )
    ]  # fmt: skip


async def test_a_file_that_is_not_valid_changes_nothing_and_is_reported(house: House) -> None:
    house.write("[lifecycle]\nkeep_alive = 10\n")
    configuration = await house.start()
    house.write("[lifecycle]\nkeep_alife = 20\n")
    with pytest.raises(InvalidConfiguration, match=r"cortexd.toml:2: .*did you mean lifecycle.keep_alive"):
        await configuration.reload()
    assert configuration.version == 1
    assert configuration.problem is not None
    assert isinstance(house.told[-1], ConfigurationRefused)
    assert (await configuration.status()).file_state == "not applied"
    house.write("[lifecycle]\nkeep_alive = 10\n")
    assert await configuration.reload() is None
    assert configuration.problem is None


async def test_a_daemon_with_a_history_starts_on_it_whatever_became_of_its_file(house: House) -> None:
    house.write("[lifecycle]\nkeep_alive = 10\n")
    await house.start()
    house.write("[lifecycle\n")
    configuration = await house.restart()
    assert configuration.settings.lifecycle.keep_alive == 10
    assert configuration.problem is not None
    house.file.unlink()
    assert (await house.restart()).settings.lifecycle.keep_alive == 10


async def test_a_daemon_without_a_history_does_not_start_on_a_file_that_is_not_valid(house: House) -> None:
    house.write("[lifecycle\n")
    with pytest.raises(InvalidConfiguration):
        await house.start()


async def test_what_was_changed_by_hand_survives_a_restart_and_yields_to_a_new_file(house: House) -> None:
    house.write("[lifecycle]\nkeep_alive = 10\n")
    configuration = await house.start()
    await configuration.change(_keep_alive(30), ADMIN)
    configuration = await house.restart()
    assert (configuration.version, configuration.settings.lifecycle.keep_alive) == (2, 30)
    assert (await configuration.status()).file_state == "differs"
    house.write("[lifecycle]\nkeep_alive = 40\n")
    configuration = await house.restart()
    assert (configuration.version, configuration.settings.lifecycle.keep_alive) == (3, 40)
    assert (await configuration.status()).file_state == "applied"


async def test_a_file_written_by_an_export_does_not_undo_what_comes_after_it(house: House) -> None:
    house.write("[lifecycle]\nkeep_alive = 10\n")
    configuration = await house.start()
    await configuration.change(_keep_alive(30), ADMIN)
    house.write("[lifecycle]\nkeep_alive = 30\n")  # what is in force already
    await configuration.reload()
    assert configuration.version == 2
    await configuration.change(_keep_alive(50), ADMIN)
    assert (await house.restart()).settings.lifecycle.keep_alive == 50


async def test_two_administrators_at_once_one_wins_and_the_other_learns_what_changed(house: House) -> None:
    configuration = await house.start()
    outcomes = await asyncio.gather(
        configuration.change(_keep_alive(30), ADMIN, expected=1),
        configuration.change(_keep_alive(40), ADMIN, expected=1),
        return_exceptions=True,
    )
    (won,) = [outcome for outcome in outcomes if isinstance(outcome, Outcome)]
    (lost,) = [outcome for outcome in outcomes if isinstance(outcome, StaleVersion)]
    assert won.version == 2
    assert (lost.current, lost.changed) == (2, ("lifecycle.keep_alive",))


async def test_a_dry_run_says_the_same_and_changes_nothing(house: House) -> None:
    configuration = await house.start()
    outcome = await configuration.change(_keep_alive(30), ADMIN, expected=1, dry_run=True)
    assert [change.key for change in outcome.changes] == ["lifecycle.keep_alive"]
    assert (outcome.changed, configuration.version, len(house.subject.adopted)) == (False, 1, 1)
    with pytest.raises(StaleVersion):
        await configuration.change(_keep_alive(30), ADMIN, expected=7, dry_run=True)
    assert not (await configuration.change(_keep_alive(300), ADMIN, expected=7, dry_run=True)).changes
    with pytest.raises(InvalidConfiguration):
        await configuration.change(_strategy("bad"), ADMIN, dry_run=True)


async def test_what_the_daemon_finds_wrong_is_not_kept(house: House) -> None:
    configuration = await house.start()
    with pytest.raises(InvalidConfiguration, match="The strategy is bad"):
        await configuration.change(_strategy("bad"), ADMIN)
    assert (await configuration.snapshots.head()).current.version == 1  # type: ignore[union-attr]


async def test_a_rollback_is_a_new_version_and_can_be_rolled_back(house: House) -> None:
    configuration = await house.start()
    await configuration.change(_keep_alive(30), ADMIN)
    assert (await configuration.rollback(1, "ada", "too short")).version == 3
    assert configuration.settings.lifecycle.keep_alive == 300
    assert (await configuration.rollback(2, "ada", "after all")).version == 4
    assert configuration.settings.lifecycle.keep_alive == 30
    with pytest.raises(UnknownVersion):
        await configuration.rollback(9, "ada", "?")


async def test_a_change_that_is_not_confirmed_in_time_is_undone_by_itself(house: House) -> None:
    configuration = await house.start()
    keeping = asyncio.create_task(configuration.keep_deadlines())
    outcome = await configuration.change(_keep_alive(30), ADMIN, confirm_within=0.05)
    assert outcome.revert_at == pytest.approx(time.time(), abs=5)
    await _until(house, lambda event: isinstance(event, ConfigurationChanged) and event.source == "auto-revert")
    assert configuration.settings.lifecycle.keep_alive == 300
    assert house.subject.adopted[-1] == (configuration.settings, 3)
    keeping.cancel()


async def test_a_change_that_is_confirmed_stays(house: House) -> None:
    configuration = await house.start()
    await configuration.change(_keep_alive(30), ADMIN, confirm_within=3600)
    assert (await configuration.status()).revert_at is not None
    await configuration.confirm(2)
    status = await configuration.status()
    assert (status.revert_at, status.confirmed) == (None, 2)
    with pytest.raises(StaleVersion):
        await configuration.confirm(1)


async def test_a_deadline_that_passed_while_nobody_was_there_is_kept_at_the_start(house: House) -> None:
    configuration = await house.start()
    await configuration.change(_keep_alive(30), ADMIN, confirm_within=0.001)
    configuration = await house.restart()
    assert (configuration.version, configuration.settings.lifecycle.keep_alive) == (3, 300)


async def test_who_leaves_in_the_middle_of_a_change_leaves_it_whole(house: House) -> None:
    configuration = await house.start()
    house.subject.gate.clear()
    asking = asyncio.create_task(configuration.change(_keep_alive(30), ADMIN))
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    house.subject.gate.set()
    await _until(house, lambda event: isinstance(event, ConfigurationChanged) and event.version == 2)
    assert house.subject.adopted[-1][1] == configuration.version == 2


async def test_a_change_that_cannot_be_kept_is_not_in_force(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    configuration = await house.start()

    async def full(*_: Any, **__: Any) -> None:
        raise StoreFull

    monkeypatch.setattr(configuration.snapshots, "put", full)
    with pytest.raises(StoreFull):
        await configuration.change(_keep_alive(30), ADMIN)
    assert (configuration.version, configuration.settings.lifecycle.keep_alive) == (1, 300)
    assert len(house.subject.adopted) == 1


async def test_a_daemon_whose_database_cannot_be_opened_serves_as_before_and_changes_nothing(house: House) -> None:
    house.write("[lifecycle]\nkeep_alive = 10\n")
    configuration = await house.start()
    await configuration.change(_keep_alive(30), ADMIN)
    head = await configuration.snapshots.head()
    failure = StoreFailed("The disk is broken.")
    subject = Subject()
    sources = Sources(file=house.file, environment=house.environment)
    broken = Configuration(sources, subject, house.told.append, None, failure, head)
    await broken.start()
    assert (broken.version, broken.settings.lifecycle.keep_alive) == (2, 30)
    with pytest.raises(StoreFailed, match="The disk is broken"):
        await broken.change(_keep_alive(40), ADMIN)
    assert broken.settings.lifecycle.keep_alive == 30
    house.write("[lifecycle]\nkeep_alive = 50\n")
    with pytest.raises(StoreFailed, match="The disk is broken"):
        await broken.reload()
    assert (broken.problem, len(subject.adopted)) == ("The disk is broken.", 1)


async def test_what_is_in_force_at_the_start_is_adopted_once(house: House) -> None:
    """Keys that take effect at a start only would else be those of what was in force before."""
    house.write("[engine]\nthreads = 1\n")
    configuration = await house.start()
    await configuration.change(_keep_alive(30), ADMIN, confirm_within=0.001)
    await house.restart()
    assert [version for _, version in house.subject.adopted] == [3]
    house.write("[engine]\nthreads = 2\n")
    await house.restart()
    assert [(settings.engine.threads, version) for settings, version in house.subject.adopted] == [(2, 4)]


async def test_a_change_that_something_else_wins_over_says_so(house: House) -> None:
    house.environment["CORTEXD_LIFECYCLE__KEEP_ALIVE"] = "1m"
    configuration = await house.start()
    outcome = await configuration.change(_keep_alive(30), ADMIN, dry_run=True)
    assert outcome.hidden == {"lifecycle.keep_alive": "CORTEXD_LIFECYCLE__KEEP_ALIVE"}


async def test_a_clock_that_is_set_back_keeps_nothing_alive_that_nobody_confirmed(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    configuration = await house.start()
    await configuration.change(_keep_alive(30), ADMIN, confirm_within=0.5)
    keeping = asyncio.create_task(configuration.keep_deadlines())
    for _ in range(3):
        await configuration.status()  # reads after it, so that it has seen the deadline
    yesterday = time.time() - 86400
    monkeypatch.setattr("cortexd.confirmation.time", lambda: yesterday)
    await _until(house, lambda event: isinstance(event, ConfigurationChanged) and event.source == "auto-revert")
    keeping.cancel()


async def test_a_file_that_was_undone_with_what_nobody_confirmed_is_applied_anew(house: House) -> None:
    configuration = await house.start()
    await configuration.change(_keep_alive(30), ADMIN, confirm_within=0.05)
    house.write("[lifecycle]\nkeep_alive = 40\n")
    await configuration.reload()
    assert configuration.settings.lifecycle.keep_alive == 40
    keeping = asyncio.create_task(configuration.keep_deadlines())
    await _until(house, lambda event: isinstance(event, ConfigurationChanged) and event.source == "auto-revert")
    keeping.cancel()
    await configuration.reload()
    assert configuration.settings.lifecycle.keep_alive == 40


async def test_without_a_store_changes_hold_and_have_no_version(tmp_path: Path) -> None:
    subject = Subject()
    configuration = Configuration(Sources(), subject, lambda _: None, None)
    await configuration.start()
    outcome = await configuration.change(_keep_alive(30), ADMIN)
    assert (outcome.version, outcome.changed, configuration.settings.lifecycle.keep_alive) == (None, True, 30)
    assert not (await configuration.change(_keep_alive(30), ADMIN)).changed
    with pytest.raises(StoreFailed):
        await configuration.rollback(1, "ada", "?")


def _keep_alive(seconds: float) -> Callable[[dict[str, Any]], Mapping[str, Any]]:
    return lambda document: document | {"lifecycle": document["lifecycle"] | {"keep_alive": seconds}}


def _strategy(strategy: str) -> Callable[[dict[str, Any]], Mapping[str, Any]]:
    return lambda document: document | {"engine": document["engine"] | {"strategy": strategy}}


async def _until(house: House, fits: Callable[[Event], bool]) -> None:
    async with asyncio.timeout(10):
        while not any(fits(event) for event in house.told):  # noqa: ASYNC110 - the list has nobody to wait for
            await asyncio.sleep(0)


def _bug(error: BaseException) -> None:
    raise error
