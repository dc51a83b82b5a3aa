"""`goose@17`, the model as version 17 of the configuration had it: what may be asked of the past, and what it may cost."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from cortexd.api.openai import find_model
from cortexd.catalogue.catalogue import Catalogue, Edition
from cortexd.catalogue.scan import Scanner
from cortexd.catalogue.spec import ModelSpec
from cortexd.config import Alias, Model, ModelLimits, Models, Settings, Sources
from cortexd.daemon import Daemon
from cortexd.engines.registry import EngineRegistry
from cortexd.errors import StoreFailed, UnknownModel, UnknownVersion
from cortexd.events import EventBus
from cortexd.lifecycle.managed_model import ManagedModel
from cortexd.lifecycle.policy import Policy
from cortexd.lifecycle.states import State
from cortexd.lifecycle.supervisor import Supervisor
from cortexd.memory.host import Host
from cortexd.memory.nvidia import Gpus
from cortexd.preparation import Preparation
from tests.checkpoint_files import tiny_state_dict, write_pth
from tests.fake_engine import FakeEngine, Script
from tests.fakes import supervisor_over

STATE = tiny_state_dict(0, layers=1, heads=1, head_size=16, vocabulary=257)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With the checkpoints of two models."""
    for name in ("goose", "swan"):
        write_pth(tmp_path / f"{name}.pth", STATE)
    return tmp_path


def settings(folder: Path, *models: Model, aliases: tuple[Alias, ...] = ()) -> Settings:
    return Settings(models=Models(directories=(str(folder),), embedded=False), model=models, alias=aliases)


def catalogue(today: Settings, *recalled: tuple[str, Settings]) -> Catalogue:
    it = Catalogue(today)
    for name, then in recalled:
        it.recall(edition(name), then)
    it.refresh()
    return it


def edition(name: str) -> Edition:
    it = Edition.of(name)
    assert it is not None
    return it


def names(it: Catalogue) -> list[str]:
    return [spec.name for spec in it.editions()]


def test_an_edition_is_not_kept_for_ever_though_both_its_version_and_today_say_so_of_the_model(folder: Path):
    for_ever = settings(folder, Model(name="goose", keep_alive=-1.0, pin=True, preload=True))
    spec = catalogue(for_ever, ("goose@1", for_ever)).resolve("goose@1")
    assert (spec.keep_alive, spec.pin, spec.preload) == (None, False, False)


def test_an_edition_goes_around_no_lowered_limit_and_its_worker_takes_no_more_than_it_did(folder: Path):
    few = Model(name="goose", max_concurrency=2, limits=ModelLimits(prompt_tokens=100, max_tokens=10))
    many = Model(name="goose", max_concurrency=4, limits=ModelLimits(prompt_tokens=5000, max_tokens=10))
    for then, today in ((many, few), (few, many)):
        spec = catalogue(settings(folder, today), ("goose@1", settings(folder, then))).resolve("goose@1")
        assert (spec.max_concurrency, spec.limits.prompt_tokens, spec.limits.max_tokens) == (2, 100, 10)


def test_an_alias_of_today_has_no_past_though_a_model_was_called_so_and_a_file_is(folder: Path):
    then = settings(folder, Model(name="chat", path="swan.pth"))
    write_pth(folder / "chat.pth", STATE)
    it = catalogue(settings(folder, aliases=(Alias(name="chat", to="goose"),)), ("chat@1", then))
    assert names(it) == []
    assert not it.is_model("chat")


def test_an_alias_of_then_leads_nowhere_though_a_model_of_today_is_called_so(folder: Path):
    then = settings(folder, Model(name="swan"), aliases=(Alias(name="chat", to="swan"),))
    also = settings(folder, Model(name="swan", aliases=("chat",)))
    it = catalogue(settings(folder, Model(name="chat", path="goose.pth")), ("chat@1", then), ("chat@2", also))
    assert names(it) == []


def test_a_model_that_is_called_like_an_edition_takes_its_place(folder: Path):
    then = settings(folder, Model(name="goose", strategy="cpu fp32"))
    it = catalogue(settings(folder, Model(name="Goose@2", path="swan.pth")), ("goose@2", then), ("goose@3", then))
    assert it.resolve("goose@2").path == str(folder / "swan.pth")
    assert names(it) == ["goose@3"]  # two specs of one name would take its worker from each other


def test_in_whatever_case_it_is_asked_for_an_edition_counts_once(folder: Path):
    then = settings(folder, Model(name="Goose", path="goose.pth"))
    it = catalogue(then, *((name, then) for name in ("goose@1", "GOOSE@1", "Goose@1")))
    assert names(it) == ["Goose@1"]
    for version in range(2, 33):
        for name in ("goose", "GOOSE", "Goose"):
            it.recall(edition(f"{name}@{version}"), then)
    it.refresh()
    assert it.resolve("goose@1").name == "Goose@1"


def test_an_edition_in_use_stays_however_many_others_are_asked_for(folder: Path):
    then = settings(folder)
    it = catalogue(then, ("goose@1", then), ("goose@2", then))
    for version in range(3, 200):
        it.recall(edition(f"goose@{version}"), then, in_use={"goose@1"})
    it.refresh()
    assert "goose@1" in names(it)
    assert "goose@2" not in names(it)
    assert len(names(it)) == 33


def test_of_a_past_configuration_an_edition_keeps_what_is_said_of_its_model_alone(folder: Path):
    """Else a client had as many whole documents kept as it asks for editions."""
    then = settings(folder, *(Model(name=f"m{i}", path="goose.pth") for i in range(300)), Model(name="goose"))
    it = catalogue(settings(folder), *((f"goose@{version}", then) for version in range(1, 33)))
    assert {kept.model for kept in it._past.values()} == {(Model(name="goose"),)}  # what it costs
    assert it.past(32) is then
    assert it.past(1) is None


def test_what_was_decoded_of_a_version_serves_all_its_editions_also_after_a_change(folder: Path):
    then = settings(folder)
    it = catalogue(settings(folder), ("goose@1", then))
    assert it.past(1) is then
    assert Catalogue(settings(folder, Model(name="goose")), like=it).past(1) is then


def test_a_refresh_looks_once_into_the_directories_of_all_versions(folder: Path, monkeypatch: pytest.MonkeyPatch):
    then = settings(folder)
    it = catalogue(settings(folder), *((f"goose@{version}", then) for version in range(1, 33)))
    looks: list[Any] = []
    look = Scanner.look

    def counted(self: Scanner, directories: list[Path]) -> Any:
        looks.append(directories)
        return look(self, directories)

    monkeypatch.setattr(Scanner, "look", counted)
    it.refresh()
    assert len(looks) == 1
    assert len(names(it)) == 32


class Past:
    """The versions that there were: 1 to `last`, all alike."""

    def __init__(self, then: Settings, last: int) -> None:
        self.asked: list[int] = []
        self._then, self._last = then, last

    async def __call__(self, version: int) -> Settings:
        self.asked.append(version)
        for _ in range(version):  # so that each is had at another moment
            await asyncio.sleep(0)
        if version > self._last:
            raise UnknownVersion(f"There is no version {version}.")
        return self._then


@pytest.fixture
async def daemon(folder: Path) -> AsyncGenerator[Daemon]:
    """Not started: nothing is loaded in these tests."""
    it = Daemon(Sources())
    it.catalogue = catalogue(settings(folder))
    yield it
    await it.close()


async def test_a_name_that_is_no_models_is_refused_without_a_look_into_the_store(
    daemon: Daemon, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    past = Past(settings(folder), last=5)
    monkeypatch.setattr(daemon.configuration, "past", past)
    for name in ("x1@1", "x2@1", "goose"):
        await daemon.recall(name)
    assert past.asked == []
    for name in ("goose@1", "swan@1", "GOOSE@1"):
        await find_model(daemon, name)
    assert past.asked == [1]


async def test_an_edition_that_somebody_waits_for_stays_however_many_others_are_asked_for(
    daemon: Daemon, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(daemon.configuration, "past", Past(settings(folder, Model(name="goose", threads=3)), last=100))
    with _waiting(daemon, await find_model(daemon, "goose@1")):
        for version in range(2, 101):
            await find_model(daemon, f"goose@{version}")
        assert daemon.catalogue.resolve("goose@1").name == "goose@1"
        assert len(names(daemon.catalogue)) == 33


async def test_editions_that_share_a_worker_with_a_model_of_today_are_forgotten_like_others(
    daemon: Daemon, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    """Else each version of a model that is kept in memory could be asked for, and then stayed."""
    monkeypatch.setattr(daemon.configuration, "past", Past(settings(folder), last=100))
    with _waiting(daemon, await find_model(daemon, "goose")) as goose:
        for version in range(1, 101):
            assert daemon.supervisor.manage(await find_model(daemon, f"goose@{version}")) is goose
        assert len(names(daemon.catalogue)) == 32
        assert len(goose.names) == 33


@pytest.mark.parametrize("problem", [UnknownVersion("There is no version 9."), StoreFailed("The disk is gone.")])
async def test_a_version_that_cannot_be_had_is_no_model(
    daemon: Daemon, problem: Exception, monkeypatch: pytest.MonkeyPatch
):
    async def past(version: int) -> Settings:
        raise problem

    monkeypatch.setattr(daemon.configuration, "past", past)
    with pytest.raises(UnknownModel, match="goose@9"):
        await find_model(daemon, "goose@9")


async def test_editions_that_many_ask_for_at_once_are_all_found(
    daemon: Daemon, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(daemon.configuration, "past", Past(settings(folder), last=12))
    found = await asyncio.gather(*(find_model(daemon, f"goose@{version}") for version in range(1, 13)))
    assert [spec.name for spec in found] == [f"goose@{version}" for version in range(1, 13)]


async def test_a_file_that_comes_while_a_look_is_under_way_is_found_by_who_asks_then(daemon: Daemon, folder: Path):
    read, go_on = _held(daemon.catalogue)
    under_way = asyncio.create_task(daemon.refresh_catalogue())
    await read.wait()
    write_pth(folder / "heron.pth", STATE)
    asking = asyncio.create_task(find_model(daemon, "heron"))
    await asyncio.sleep(0)
    go_on()
    assert (await asking).name == "heron"
    await under_way


async def test_an_edition_is_found_though_another_configuration_comes_into_force_meanwhile(
    daemon: Daemon, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(daemon.configuration, "past", Past(settings(folder), last=1))
    read, go_on = _held(daemon.catalogue)
    asking = asyncio.create_task(find_model(daemon, "goose@1"))
    await read.wait()
    daemon.catalogue = catalogue(settings(folder, Model(name="swan")))
    go_on()
    assert await asking == daemon.catalogue.resolve("goose@1")


async def test_an_edition_that_somebody_waits_for_outlives_a_change_and_one_that_nobody_uses_does_not(folder: Path):
    """Else who is in the queue for it was told that it had changed."""
    script = Script()
    script.loading.clear()
    engines, needed = (lambda spec: FakeEngine(spec, script)), (lambda _: {"cpu": 100})
    supervisor = supervisor_over(engines, EventBus(), [], ceilings={"cpu": 1000}, estimate=needed, parallel_loads=1)
    then = settings(folder, Model(name="goose", max_concurrency=2))
    now = catalogue(settings(folder), ("goose@1", then), ("goose@2", settings(folder, Model(name="goose", threads=3))))
    supervisor.manage(now.resolve("goose@2"))
    first, second = (supervisor.lease(now.resolve(name), owner="test") for name in ("swan", "goose@1"))
    assert supervisor.status(now.resolve("goose@1")).state == State.QUEUED
    after = await _changed(supervisor, now, settings(folder, Model(name="heron", path="swan.pth")))
    assert names(after) == ["goose@1"]
    supervisor.reconcile([*after.specs(), *after.editions()])
    script.loading.set()
    for lease in (first, second):
        assert await lease.granted()
        lease.release()
    assert names(await _changed(supervisor, after, settings(folder))) == ["goose@1"]  # it is ready
    await supervisor.close(0.0)


@contextlib.contextmanager
def _waiting(daemon: Daemon, spec: ModelSpec) -> Iterator[ManagedModel]:
    """Somebody waits for it, and waits on: nothing is loaded."""
    daemon.supervisor.set_ceilings({"cpu": 1 << 40})
    daemon.supervisor.adopt(Policy(parallel_loads=0))
    lease = daemon.supervisor.lease(spec, owner="test")
    model = daemon.supervisor.models[spec.hash]
    assert model.state == State.QUEUED
    yield model
    assert model.state == State.QUEUED
    lease.release()


async def _changed(supervisor: Supervisor, now: Catalogue, wanted: Settings) -> Catalogue:
    async def past(version: int) -> Settings:
        raise AssertionError(f"What is there already is not asked for again: {version}.")

    registry = EngineRegistry(cast(Any, None))  # it makes no engine here
    preparation = Preparation(supervisor, registry, Host(), Gpus(None), past)
    return (await preparation.prepare(now, wanted, strict=True)).catalogue


def _held(it: Catalogue) -> tuple[asyncio.Event, Any]:
    """Its next look has seen all it will see once the event is set, and ends once the function is called."""
    read, go_on, loop, look = asyncio.Event(), threading.Event(), asyncio.get_running_loop(), it.refresh

    def refresh() -> None:
        look()
        loop.call_soon_threadsafe(read.set)
        go_on.wait()

    cast(Any, it).refresh = refresh
    return read, go_on.set
