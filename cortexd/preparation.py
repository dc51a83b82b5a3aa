"""A configuration is read, vetted and planned before it is in force."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path

import msgspec

from cortexd.catalogue.catalogue import Catalogue, Edition
from cortexd.change_plan import ChangePlan, change_plan, waiting_for_a_start
from cortexd.config import Settings
from cortexd.engines.registry import EngineRegistry
from cortexd.errors import InvalidConfiguration, StoreFailed, UnknownVersion
from cortexd.lifecycle.managed_model import ManagedModel
from cortexd.lifecycle.policy import Policy
from cortexd.lifecycle.states import State
from cortexd.lifecycle.supervisor import Supervisor
from cortexd.memory.budget import cache_limits, ceilings, parked_budget
from cortexd.memory.host import Host
from cortexd.memory.nvidia import Gpus
from cortexd.vetting import problems
from cortexd.wire import CacheLimits

_log = logging.getLogger("cortexd")

_NOT_TO_BE_HAD = (UnknownVersion, StoreFailed, InvalidConfiguration)


class Prepared(msgspec.Struct, frozen=True):
    """A configuration that was found good, with all that reading it took."""

    settings: Settings
    catalogue: Catalogue
    ceilings: dict[str, int]
    policy: Policy
    plan: ChangePlan
    cache: CacheLimits


class Preparation:
    """Changes nothing."""

    def __init__(
        self,
        supervisor: Supervisor,
        registry: EngineRegistry,
        host: Host,
        gpus: Gpus,
        past: Callable[[int], Awaitable[Settings]],
        cache: Path | None = None,
    ) -> None:
        """`past` gives what was in force as an earlier version; it raises UnknownVersion, StoreFailed, InvalidConfiguration.
        States are kept below `cache`; None: not on the disk.
        """
        self.started_with: Settings | None = None  # what takes effect at a start only is as it says
        self._supervisor = supervisor
        self._registry = registry
        self._host = host
        self._gpus = gpus
        self._past = past
        self._cache = cache

    async def prepare(self, now: Catalogue, settings: Settings, *, strict: bool) -> Prepared:
        """`now` is the catalogue in force. Raises InvalidConfiguration, one sentence a line, for what was not wrong before, unless
        not `strict`.
        """
        catalogue = Catalogue(settings, like=now)
        wrong = [sentence async for sentence in self._recall_named(catalogue, settings)]
        catalogue.keep(now, {name.lower() for model in self._used() for name in model.names})
        await asyncio.to_thread(catalogue.refresh)
        limits = ceilings(settings.memory, self._host, self._gpus)
        kept = cache_limits(settings.cache, limits["cpu"], self._cache)
        wrong += problems(settings, catalogue, self._registry, self._supervisor.history, limits)
        if wrong and strict and (worse := await self._not_wrong_before(wrong, now)):
            raise InvalidConfiguration("\n".join(worse))
        for sentence in wrong:
            _log.warning("the configuration in force: %s", sentence)
        waiting = waiting_for_a_start(self.started_with or settings, settings)
        plan = change_plan(now.specs(), catalogue.specs(), self._supervisor, waiting)
        policy = _policy(settings, parked_budget(settings.memory, self._host))
        return Prepared(settings, catalogue, limits, policy, plan, kept)

    def names_in_use(self) -> set[str]:
        """In lower case, one for each model that is in memory or that somebody waits for: without any, it would go."""
        return {model.spec.name.lower() for model in self._used()}

    def _used(self) -> list[ManagedModel]:
        return [model for model in self._supervisor.models.values() if model.wanted or model.state is not State.COLD]

    async def _not_wrong_before(self, wrong: list[str], now: Catalogue) -> list[str]:
        """Whatever has gone wrong with the configuration in force, a file that was deleted, say, must not keep others from
        being changed.
        """
        before = Catalogue(now.settings, like=now)
        known = [sentence async for sentence in self._recall_named(before, now.settings)]
        await asyncio.to_thread(before.refresh)
        limits = dict(self._supervisor.view.ceilings)
        known += problems(now.settings, before, self._registry, self._supervisor.history, limits)
        return [sentence for sentence in dict.fromkeys(wrong) if sentence not in known]

    async def _recall_named(self, catalogue: Catalogue, settings: Settings) -> AsyncGenerator[str]:
        """What aliases name of earlier versions; yields what is wrong with that."""
        described = {model.name for model in settings.model}
        for alias in settings.alias:
            for target in alias.weights:
                if target in described or (edition := Edition.of(target)) is None:
                    continue
                try:
                    then = catalogue.past(edition.version) or await self._past(edition.version)
                    catalogue.recall(edition, then, named=True)
                except _NOT_TO_BE_HAD as error:
                    yield f"alias {alias.name}: {target} cannot be had: {error.message}"


def _policy(settings: Settings, host_tier: int) -> Policy:
    lifecycle = settings.lifecycle
    return Policy(
        keep_alive=lifecycle.keep_alive,
        parked_keep_alive=lifecycle.parked_keep_alive,
        parallel_loads=lifecycle.parallel_loads,
        queue_limit=lifecycle.queue_limit,
        linger=lifecycle.linger,
        max_wait=lifecycle.max_wait,
        suspend_after=lifecycle.suspend_after,
        load_stall=lifecycle.load_stall,
        ping_interval=lifecycle.ping_interval,
        ping_deadline=lifecycle.ping_deadline,
        host_tier=host_tier,
    )
