"""A daemon whose configuration is real, and kept in a real database; only who is configured is a fake."""

import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx

from cortexd.change_plan import ChangePlan
from cortexd.config import Settings, Sources
from cortexd.configuration import Configuration
from cortexd.errors import InvalidConfiguration
from cortexd.store.store import Store
from tests.api.serving import House, serving
from tests.fakes import FakeDaemon
from tests.store.stores import bug

CONFIG = "/admin/config"
FILE = """\
[lifecycle]
keep_alive = "5m"
[[model]]
name = "goose"
"""
MERGE = {"content-type": "application/merge-patch+json"}
TOML = {"content-type": "application/toml"}


class Fitting:
    """Implements `cortexd.configuration.Prepared`."""

    def __init__(self, settings: Settings, plan: ChangePlan) -> None:
        self.settings = settings
        self.plan = plan


class FakeSubject:
    """Implements `cortexd.configuration.Subject`: any configuration fits that does not name what it refuses."""

    def __init__(self) -> None:
        self.plan = ChangePlan()
        self.refuses = "dodo"
        self.adopted: list[tuple[Settings, int | None]] = []

    async def prepare(self, settings: Settings, *, strict: bool) -> Fitting:
        if strict and any(model.name == self.refuses for model in settings.model):
            raise InvalidConfiguration(f"There is no {self.refuses}.")
        return Fitting(settings, self.plan)

    def adopt(self, prepared: Fitting, version: int | None) -> None:
        self.adopted.append((prepared.settings, version))


class Office:
    """What is served, and those who are asked to change it."""

    def __init__(self, house: House, subject: FakeSubject, store: Store, file: Path) -> None:
        self.house = house
        self.client = house.client
        self.configuration: Configuration[Fitting] = house.daemon.configuration
        self.subject = subject
        self.store = store
        self.file = file

    async def tag(self) -> str:
        return (await self.client.get(CONFIG)).headers["etag"]

    async def patch(self, change: Any, *, match: str | None = None, **query: Any) -> httpx.Response:
        """As a merge patch for what is in force, or for `match`."""
        headers = {**MERGE, "if-match": match or await self.tag()}
        return await self.client.patch(CONFIG, json=change, headers=headers, params=query)

    async def act(self, path: str, *, match: str | None = None, **request: Any) -> httpx.Response:
        headers = {"if-match": match or await self.tag(), **request.pop("headers", {})}
        return await self.client.post(path, headers=headers, **request)


@contextlib.asynccontextmanager
async def configured(place: Path, text: str = FILE) -> AsyncGenerator[Office]:
    """With `text` as its file in `place`; version 1 is in force."""
    file = place / "cortexd.toml"
    file.write_text(text)
    daemon, subject, store = FakeDaemon(), FakeSubject(), Store(place / "data" / "cortexd.db", bug)
    await store.start()
    sources = Sources(file=file, environment={"HOME": "/home/ann"}, overrides=["server.drain_s=1m"])
    daemon.configuration = Configuration(sources, subject, daemon.events.publish, store.snapshots)
    await daemon.configuration.start()
    try:
        async with serving(daemon) as house:
            yield Office(house, subject, store, file)
    finally:
        await store.close()
