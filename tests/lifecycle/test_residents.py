"""Models that are brought in without having been asked for."""

import logging

import pytest

from cortexd.catalogue.spec import ModelSpec
from cortexd.errors import UnknownModel
from cortexd.lifecycle.lease import Lease
from cortexd.lifecycle.policy import Priority
from cortexd.lifecycle.residents import Residents
from tests.fakes import FakeDaemon


def lease_of(daemon: FakeDaemon, name: str, owner: str) -> Lease:
    return daemon.supervisor.lease(daemon.catalogue.resolve(name), owner=owner, priority=Priority.PRELOAD)


async def until_done(residents: Residents, daemon: FakeDaemon) -> None:
    while residents.busy:
        await daemon.supervisor_has_moved()


async def test_they_are_loaded_in_their_order_and_left_to_their_keep_alive():
    specs = [ModelSpec(name=name, source="file", path=f"/{name}") for name in ("goose", "swan")]
    daemon = FakeDaemon(*specs)
    residents = Residents(lambda name, owner: lease_of(daemon, name, owner))
    residents.bring(["swan", "goose"], "restore")
    await until_done(residents, daemon)
    assert [daemon.supervisor.status(spec).state for spec in specs] == ["ready", "ready"]
    assert [daemon.supervisor.status(spec).leases for spec in specs] == [0, 0]
    await daemon.close()


async def test_one_that_cannot_be_loaded_is_told_to_the_log_and_holds_up_nobody(caplog: pytest.LogCaptureFixture):
    daemon = FakeDaemon()

    def lease(name: str, owner: str) -> Lease:
        if name == "roc":
            raise UnknownModel("There is no model 'roc'.")
        return lease_of(daemon, name, owner)

    residents = Residents(lease)
    with caplog.at_level(logging.WARNING):
        residents.bring(["roc", "goose"], "preload")
        await until_done(residents, daemon)
    assert "preload of roc: There is no model 'roc'." in caplog.text
    assert daemon.supervisor.status(daemon.catalogue.resolve("goose")).state == "ready"
    await daemon.close()


async def test_one_for_which_there_is_no_room_is_given_up_after_a_while(caplog: pytest.LogCaptureFixture):
    daemon = FakeDaemon()
    daemon.script().loading.clear()
    residents = Residents(lambda name, owner: lease_of(daemon, name, owner), patience=0.01)
    with caplog.at_level(logging.WARNING):
        residents.bring(["goose"], "restore")
        await until_done(residents, daemon)
    assert "restore of goose: there was no room for it" in caplog.text
    assert daemon.leases() == 0
    daemon.script().loading.set()
    await daemon.close()


async def test_closing_gives_up_what_still_waits():
    daemon = FakeDaemon()
    daemon.script().loading.clear()
    residents = Residents(lambda name, owner: lease_of(daemon, name, owner))
    residents.bring(["goose"], "restore")
    while not daemon.leases():
        await daemon.supervisor_has_moved()
    await residents.close()
    assert daemon.leases() == 0
    daemon.script().loading.set()
    await daemon.close()
