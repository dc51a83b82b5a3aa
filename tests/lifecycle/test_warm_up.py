"""Who is warmed up, when, and that nothing which goes wrong is anybody else's trouble."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator
from itertools import pairwise

import pytest

from cortexd.catalogue.spec import ModelSpec
from cortexd.engines.protocol import EngineFacts
from cortexd.errors import LoadFailed, ShuttingDown
from cortexd.lifecycle.lease import Lease, LoadStatus
from cortexd.lifecycle.policy import Priority
from cortexd.lifecycle.prediction import Predictor
from cortexd.lifecycle.warm_up import WarmUp
from tests.fake_engine import FakeEngine, Script

HOUR, DAY = 3600.0, 86400.0


class Garage:
    """A supervisor as a warm-up sees it, the leases that it gave, and a clock that stands still until a test moves it."""

    def __init__(self, *models: str) -> None:
        self.cold = list(models)
        self.now = 1_000_000.0
        self.error: Exception | None = None
        self.leases: asyncio.Queue[tuple[str, Lease]] = asyncio.Queue()
        self.released: asyncio.Queue[str] = asyncio.Queue()
        self.refused: asyncio.Queue[str] = asyncio.Queue()
        self.out: set[str] = set()
        self._looks: asyncio.Queue[None] = asyncio.Queue()

    def look(self) -> list[str]:
        self._looks.put_nowait(None)
        return self.cold

    def lease(self, name: str) -> Lease:
        assert not self.out, "one model is warmed up at a time"
        if self.error is not None:
            self.refused.put_nowait(name)
            raise self.error
        lease = Lease(
            "prediction",
            self.now,
            lambda: LoadStatus(phase="queued", percent=0, eta_s=None, queue=0),
            Priority.PREDICTED,
        )
        lease.held_by(lambda _: self._take_back(name))
        self.out.add(name)
        self.leases.put_nowait((name, lease))
        return lease

    def grant(self, name: str, lease: Lease) -> None:
        self.cold.remove(name)
        spec = ModelSpec(name=name, source="file")
        lease.grant(FakeEngine(spec, Script()), EngineFacts(description="", context=1, loaded_bytes=1))

    async def looked(self) -> None:
        """A look that began after this call has ended: the next one begins."""
        while not self._looks.empty():
            self._looks.get_nowait()
        for _ in range(2):
            async with asyncio.timeout(5):
                await self._looks.get()

    async def leased(self) -> tuple[str, Lease]:
        async with asyncio.timeout(5):
            return await self.leases.get()

    async def gave_back(self) -> str:
        async with asyncio.timeout(5):
            return await self.released.get()

    async def was_refused(self) -> str:
        async with asyncio.timeout(5):
            return await self.refused.get()

    def _take_back(self, name: str) -> None:
        self.out.remove(name)
        self.released.put_nowait(name)


def taught(garage: Garage, *followers: str) -> Predictor:
    """After the writer, each of these is asked for more often than not; an hour later each day, so that no hour is learnt."""
    predictor = Predictor(hour_of_week=lambda at: int(at // HOUR) % 168)
    for _ in range(5):
        for follower in followers:
            predictor.note("writer", garage.now)
            predictor.note(follower, garage.now + 60)
            garage.now += DAY + HOUR
    return predictor


def discourage(predictor: Predictor, garage: Garage) -> None:
    """Until it switches itself off."""
    while predictor.active:
        predictor.predicted("nobody", garage.now)
        garage.now += 400
        predictor.likely(garage.now, [])


@contextlib.asynccontextmanager
async def running(garage: Garage, predictor: Predictor, *, patience: float = 60.0) -> AsyncGenerator[WarmUp]:
    """One that looks all the time."""
    it = WarmUp(
        predictor, garage.look, garage.lease, now=lambda: garage.now, interval=0.0, pause=0.0, patience=patience
    )
    it.start()
    yield it
    await it.close()


async def test_a_likely_model_is_warmed_up_and_let_go():
    garage = Garage("translator", "stranger")
    async with running(garage, taught(garage, "translator")) as it:
        it.asked("writer")
        name, lease = await garage.leased()
        assert name == "translator"
        assert garage.released.empty()
        garage.grant(name, lease)
        assert await garage.gave_back() == "translator"


async def test_a_request_wakes_it_at_once():
    garage = Garage("translator")
    it = WarmUp(taught(garage, "translator"), garage.look, garage.lease, now=lambda: garage.now, pause=0.0)
    it.start()
    it.asked("writer")
    assert (await garage.leased())[0] == "translator"
    await it.close()


async def test_nothing_is_warmed_up_without_a_reason():
    garage = Garage("translator")
    async with running(garage, taught(garage, "translator")) as it:
        it.asked("stranger")
        await garage.looked()
        assert garage.leases.empty()


async def test_a_model_that_is_there_is_not_warmed_up():
    garage = Garage("stranger")
    async with running(garage, taught(garage, "translator")) as it:
        it.asked("writer")
        await garage.looked()
        assert garage.leases.empty()


async def test_a_model_that_is_not_asked_for_is_not_warmed_up_again_within_the_horizon():
    garage = Garage("translator")
    async with running(garage, taught(garage, "translator")) as it:
        it.asked("writer")
        garage.grant(*await garage.leased())
        garage.cold.append("translator")  # evicted
        garage.now += 200
        it.asked("writer")
        await garage.looked()
        assert garage.leases.empty()
        garage.now += DAY + HOUR
        it.asked("writer")
        assert (await garage.leased())[0] == "translator"


async def test_one_model_is_warmed_up_at_a_time():
    garage = Garage("translator", "painter")
    predictor = taught(garage, "translator", "painter")
    it = WarmUp(predictor, garage.look, garage.lease, threshold=0.2, now=lambda: garage.now, interval=3600.0, pause=0.0)
    it.start()
    it.asked("writer")
    first, lease = await garage.leased()
    it.asked("writer")
    garage.grant(first, lease)
    second, _ = await garage.leased()
    assert garage.out == {second}
    assert {first, second} == {"translator", "painter"}
    await it.close()


async def test_a_forecast_that_comes_true_is_counted():
    garage = Garage("translator")
    predictor = taught(garage, "translator")
    async with running(garage, predictor) as it:
        it.asked("writer")
        garage.grant(*await garage.leased())
        garage.now += 60
        it.asked("translator")
        await garage.looked()
        assert (predictor.hits, predictor.misses) == (1, 0)


async def test_a_load_that_takes_too_long_is_given_up():
    garage = Garage("translator")
    async with running(garage, taught(garage, "translator"), patience=0.0) as it:
        it.asked("writer")
        await garage.leased()
        assert await garage.gave_back() == "translator"


async def test_a_model_that_fails_is_tried_again_only_later_and_later():
    garage = Garage("translator")
    garage.error = LoadFailed()
    tried: list[float] = []
    async with running(garage, taught(garage, "translator")) as it:
        while len(tried) < 6:
            it.asked("writer")
            await garage.looked()
            while not garage.refused.empty():
                garage.refused.get_nowait()
                tried.append(garage.now)
            it.asked("translator")  # a forecast that came true does not keep it from being tried again
            garage.now += 100
    assert [later - earlier for earlier, later in pairwise(tried)] == [300, 600, 1200, 2400, 3600]


async def test_a_refusal_at_once_does_not_end_it():
    garage = Garage("translator")
    garage.error = ShuttingDown()
    async with running(garage, taught(garage, "translator")) as it:
        it.asked("writer")
        assert await garage.was_refused() == "translator"
        garage.error = None
        garage.now += DAY
        it.asked("writer")
        assert (await garage.leased())[0] == "translator"


async def test_while_it_is_switched_off_forecasts_are_judged_and_not_acted_upon():
    garage = Garage("translator")
    predictor = taught(garage, "translator")
    discourage(predictor, garage)
    async with running(garage, predictor) as it:
        while not predictor.active:
            it.asked("writer")
            await garage.looked()
            assert garage.leases.empty()
            garage.now += 60
            it.asked("translator")
            await garage.looked()
            garage.now += DAY + HOUR
        it.asked("writer")
        assert (await garage.leased())[0] == "translator"


async def test_closing_gives_up_what_is_being_warmed_up():
    garage = Garage("translator")
    async with running(garage, taught(garage, "translator")) as it:
        it.asked("writer")
        await garage.leased()
    assert garage.released.get_nowait() == "translator"


async def test_one_that_was_never_started_can_be_closed():
    await WarmUp(Predictor(), list, Garage().lease).close()


async def test_a_bug_ends_predictions_and_nothing_else(caplog: pytest.LogCaptureFixture):
    garage = Garage("translator")
    garage.error = ZeroDivisionError("a bug")
    async with running(garage, taught(garage, "translator")) as it:
        it.asked("writer")
        await garage.was_refused()
        it.asked("writer")
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
