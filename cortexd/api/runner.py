"""The routes of RWKV-Runner, whose clients know one model at a time: here it is the one that the alias `rwkv` leads to.

Each change through them is a version of the configuration.
"""

import logging
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cortexd.api.admin_models import author_of
from cortexd.api.bodies import json_response, read_body
from cortexd.api.decoding import BodyDecoder
from cortexd.api.local import LocalOnly
from cortexd.api.openai import find_model, told_of
from cortexd.api.runner_schema import Phase, RunnerStatus, Switch, Update
from cortexd.catalogue.catalogue import Edition
from cortexd.catalogue.spec import ModelSpec
from cortexd.config import ModelSampling
from cortexd.config.merging import merged
from cortexd.daemon import Daemon
from cortexd.errors import BadRequest, Conflict, CortexdError, ShuttingDown, UnknownModel, UnsupportedCheckpoint
from cortexd.lifecycle.policy import Priority
from cortexd.lifecycle.states import COMING, State
from cortexd.store.snapshot import Origin

_ALIAS = "rwkv"
_SAME = ("gpt-3.5-turbo", "text-davinci-003")  # what clients call it that were written for OpenAI
_COLDEST = 0.1  # RWKV-Runner takes a lower temperature for this one
_PATH = re.compile(r".*[/\\]", re.DOTALL)
_ENDING = re.compile(r"\.(pth|safetensors|st)$")
_switches, _updates = BodyDecoder(Switch), BodyDecoder(Update)
_log = logging.getLogger("cortexd.api")


def runner_routes(daemon: Daemon) -> list[Route]:
    runner = Runner(daemon)
    guard = [Middleware(LocalOnly)]
    return [
        Route("/status", runner.status, methods=["GET"]),
        Route("/switch-model", runner.switch, methods=["POST"], middleware=guard),
        Route("/update-config", runner.update, methods=["POST"], middleware=guard),
        Route("/enable-state-cache", runner.enable_cache, methods=["POST"], middleware=guard),
        Route("/disable-state-cache", runner.disable_cache, methods=["POST"], middleware=guard),
        Route("/reset-state", runner.forget, methods=["POST"], middleware=guard),
        Route("/reset-state-cache", runner.forget, methods=["POST"], middleware=guard),  # as its manual has it
    ]


class Runner:
    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._switching = False

    async def status(self, request: Request) -> Response:  # noqa: ARG002 - Starlette's signature
        spec = self._model()
        if spec is None:
            return json_response(RunnerStatus(Phase.OFFLINE, os.getpid(), "CPU"))
        status = self._daemon.supervisor.status(self._daemon.rollouts.serving(spec).spec)
        phase = Phase.OFFLINE
        if self._switching or status.state in COMING:
            phase = Phase.LOADING
        elif status.state in (State.READY, State.DRAINING):
            phase = Phase.WORKING
        devices = [device for device in sorted(status.memory) if device != "cpu"]
        pid = status.pids[0] if status.pids else os.getpid()
        return json_response(RunnerStatus(phase, pid, ", ".join(devices) or "CPU"))

    async def switch(self, request: Request) -> Response:
        """A client that leaves meanwhile does not end it: it is done whole, or undone."""
        asked, ignored = _switches.decode(await self._body(request))
        if self._switching:
            return Response(status_code=304)
        self._switching = True
        try:
            if asked.model:
                await self._switch(await self._named(asked.model), asked.strategy, author_of(request))
            else:
                await self._unload(author_of(request))
        finally:
            self._switching = False
        return _success(ignored)

    async def update(self, request: Request) -> Response:
        asked, ignored = _updates.decode(await self._body(request))
        if (spec := self._model()) is None:
            raise BadRequest("model not loaded; name one with POST /switch-model first.")
        if asked.global_penalty:
            raise BadRequest(
                "global_penalty is not supported: penalties count what was generated; leave it out.",
                param="global_penalty",
            )
        keys: dict[str, Any] = {}
        if sampling := _sampling(asked):
            keys["sampling"] = sampling
        if asked.state is not None:
            keys["state"] = self._state(asked.state, spec)
        if keys:
            await self._daemon.desire(spec.name, author_of(request), "changed by /update-config", **keys)
        return _success(ignored)

    async def enable_cache(self, request: Request) -> Response:
        return await self._set_cache(request, enabled=True)

    async def disable_cache(self, request: Request) -> Response:
        return await self._set_cache(request, enabled=False)

    async def forget(self, request: Request) -> Response:  # noqa: ARG002 - Starlette's signature
        await self._daemon.forget_states()
        return _success()

    async def _set_cache(self, request: Request, *, enabled: bool) -> Response:
        reason = f"{'enabled' if enabled else 'disabled'} by {request.url.path}"
        origin = Origin(author=author_of(request), reason=reason, source="api")
        await self._daemon.configuration.change(
            lambda document: merged(document, {"cache": {"enabled": enabled}}), origin
        )
        return _success()

    async def _switch(self, spec: ModelSpec, strategy: str, author: str) -> None:
        """Lead the alias to this model, and load it; where that fails, the configuration is again as it was."""
        if spec.problem is not None:
            raise UnsupportedCheckpoint(spec.problem)
        configuration = self._daemon.configuration
        change = {} if strategy in ("", spec.strategy) else {"strategy": strategy}
        if change and Edition.of(spec.name) is not None:
            raise Conflict(
                f"{spec.name} is what an earlier configuration had; leave out its strategy.", param="strategy"
            )
        before: int | None = None

        def edit(document: dict[str, Any]) -> Mapping[str, Any]:
            nonlocal before
            before = configuration.version  # in here nobody else changes it
            aliases = {name: {"to": spec.name} for name in self._aliases(document, spec)}
            return merged(document, {"alias": aliases, "model": {spec.name: change} if change else {}})

        origin = Origin(author=author, reason=f"switched to {spec.name} by /switch-model", source="api")
        outcome = await configuration.change(edit, origin)
        try:
            await self._load(self._daemon.catalogue.resolve(spec.name))
        except ShuttingDown:
            raise  # which says nothing of the model
        except CortexdError as error:
            if outcome.changed and before is not None:
                await self._go_back(before, f"{spec.name} could not be switched to: {error.message}", outcome.version)
            raise

    def _aliases(self, document: Mapping[str, Any], spec: ModelSpec) -> list[str]:
        """Those that shall lead to this model: `rwkv`, and what leads where it does or is nobody's name. Raises Conflict."""
        aliases = {alias["name"].lower(): alias["to"] for alias in document["alias"]}
        owners = {name.lower(): one for one in self._daemon.catalogue.specs() for name in (one.name, *one.aliases)}
        now = aliases.get(_ALIAS)
        free = [name for name in _SAME if aliases.get(name, now) == now and (name in aliases or name not in owners)]
        if now is None and (owner := owners.get(_ALIAS)) is not None:
            if owner.name != spec.name:
                raise Conflict(
                    f"{_ALIAS} is a name of the model {owner.name} already, and cannot lead to {spec.name}; "
                    f"take that name from it first."
                )
            return free
        return [_ALIAS, *free]

    async def _load(self, spec: ModelSpec) -> None:
        """Returns when it is ready; raises what made its load fail."""
        supervisor, served = self._daemon.supervisor, self._daemon.rollouts.serving(spec)
        if served.fallback is not None and supervisor.in_memory(spec.name) is not None:
            # It is loaded beside what answers for it. Asked for by its name, it would send that away first.
            spec = msgspec.structs.replace(spec, name=str(Edition(spec.name, served.version or 0)), aliases=())
        async with supervisor.lease(spec, owner=_ALIAS, priority=Priority.ADMIN):
            pass

    async def _go_back(self, version: int, reason: str, expected: int | None) -> None:
        try:
            await self._daemon.configuration.rollback(version, "cortexd", reason, expected=expected)
        except CortexdError as error:
            _log.error("%s That could not be put right: %s", reason, error.message)

    async def _unload(self, author: str) -> None:
        """Its worker goes when it is left. The alias stays: the next request loads the model again."""
        if (wanted := self._model()) is None:
            return
        spec = self._daemon.rollouts.serving(wanted).spec
        self._daemon.administration.unload(spec, force=False)
        if wanted.preload:
            await self._daemon.desire(wanted.name, author, "unloaded by /switch-model", preload=False)

    def _model(self) -> ModelSpec | None:
        """As it is wanted; None where there was no switch yet."""
        try:
            return self._daemon.catalogue.resolve(_ALIAS)
        except UnknownModel:
            return None

    async def _named(self, written: str) -> ModelSpec:
        """Raises UnknownModel."""
        try:
            return await find_model(self._daemon, written)
        except UnknownModel:
            if (key := _key(written)) == written:
                raise
            return await find_model(self._daemon, key)

    def _state(self, written: str, spec: ModelSpec) -> str | None:
        """Raises UnknownState, and BadRequest where the model cannot start from it."""
        if not written:
            return None
        key = _key(written)
        self._daemon.states.check(spec, self._daemon.states.resolve(key))
        return key

    async def _body(self, request: Request) -> bytes:
        return await read_body(request, self._daemon.settings.server.max_body_bytes)


def _sampling(asked: Update) -> dict[str, Any]:
    """What it says of `[model.sampling]`."""
    fields = msgspec.structs.asdict(asked).items()
    said = {name: value for name, value in fields if name in ModelSampling.__struct_fields__ and value is not None}
    if "temperature" in said:
        said["temperature"] = max(_COLDEST, said["temperature"])
    return said


def _key(path: str) -> str:
    """`World-0.1B` of `models/World-0.1B.pth`: a name from a client is a key, and never a path."""
    return _ENDING.sub("", _PATH.sub("", path))


def _success(ignored: Sequence[str] = ()) -> Response:
    response = json_response("success")
    response.headers.update(told_of(ignored))
    return response
