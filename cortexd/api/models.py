"""`/v1/models`: what may be asked for, loaded or not."""

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from cortexd.api.bodies import json_response
from cortexd.api.openai import find_model
from cortexd.catalogue.spec import ModelSpec
from cortexd.daemon import Daemon


class ModelFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What cortexd adds to OpenAI's description of a model."""

    state: str
    incarnation: int
    percent: int
    leases: int
    waiting: int
    engine: str
    architecture: str
    source: str
    size: int  # bytes on disk
    loaded_bytes: int
    context: int  # most prompt tokens
    keep_alive_left_s: float | None
    aliases: tuple[str, ...]
    problem: str | None
    error: str | None


class ModelObject(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: str = "model"
    created: int
    owned_by: str = "cortexd"
    cortexd: ModelFacts


class ModelList(msgspec.Struct, frozen=True):
    data: list[ModelObject]
    object: str = "list"


class ModelEndpoints:
    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    async def all(self, request: Request) -> Response:  # noqa: ARG002 - Starlette's signature
        await self._daemon.refresh_catalogue()
        return json_response(ModelList([self._describe(spec) for spec in self._daemon.catalogue.specs()]))

    async def one(self, request: Request) -> Response:
        return json_response(self._describe(await find_model(self._daemon, request.path_params["id"])))

    def _describe(self, spec: ModelSpec) -> ModelObject:
        status = self._daemon.supervisor.status(self._daemon.rollouts.serving(spec).spec)
        facts = ModelFacts(
            state=status.state,
            incarnation=status.incarnation,
            percent=status.percent,
            leases=status.leases,
            waiting=status.waiting,
            engine=status.engine,
            architecture=spec.architecture,
            source=spec.source,
            size=spec.size,
            loaded_bytes=status.loaded_bytes,
            context=status.context,
            keep_alive_left_s=status.keep_alive_left_s,
            aliases=spec.aliases,
            problem=spec.problem,
            error=status.error,
        )
        return ModelObject(id=spec.name, created=spec.created, cortexd=facts)
