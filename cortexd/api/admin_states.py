"""`/admin/states`: state-tuned initial states, uploaded and taken out again."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from cortexd.api.admin_models import author_of
from cortexd.api.bodies import json_response
from cortexd.daemon import Daemon
from cortexd.errors import BadRequest, BodyTooLarge, Conflict, UnknownState
from cortexd.store.states import StateVersion

LARGEST = 512 * 2**20  # bytes of an upload


class StateReports(msgspec.Struct, frozen=True):
    """The newest version of each."""

    states: list[StateVersion]


class StateHistory(msgspec.Struct, frozen=True):
    """Every version there was, newest first."""

    name: str
    versions: list[StateVersion]


class StateAdministration:
    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    async def all(self, request: Request) -> Response:  # noqa: ARG002 - Starlette's signature
        return json_response(StateReports(self._daemon.states.newest()))

    async def named(self, request: Request) -> Response:
        """One route, for what refuses any other method has to name all that there are."""
        name = request.path_params["name"]
        match request.method:
            case "PUT":
                return await self._put(name, request)
            case "DELETE":
                return await self._delete(name)
            case _:
                return await self._history(name)

    async def export(self, request: Request) -> Response:
        """The file of the newest version, or of `version`."""
        name, number = request.path_params["name"], request.query_params.get("version")
        version = self._daemon.states.resolve(name if number is None else f"{name}@{_whole(number)}")
        path = self._daemon.states.path(version)
        if not await asyncio.to_thread(path.is_file):
            raise UnknownState(f"The file of the state {version} is gone; upload it again.")
        return FileResponse(path, media_type="application/octet-stream", filename=f"{version}.safetensors")

    async def _put(self, name: str, request: Request) -> Response:
        """The body is the file. Answers with the version that `name` means from now on, which may be the one that it meant."""
        version = await self._daemon.states.receive(name, _limited(request, LARGEST), author_of(request))
        return json_response(version)

    async def _delete(self, name: str) -> Response:
        """Every version, unless the configuration names one."""
        users = [spec.name for spec in self._daemon.catalogue.specs() if (spec.state or "").partition("@")[0] == name]
        if users:
            models = ", ".join(users)
            raise Conflict(f"The state {name} is what {models} starts from; take it out of the configuration first.")
        await self._daemon.states.delete(name)
        return await self._history(name)

    async def _history(self, name: str) -> Response:
        return json_response(StateHistory(name, await self._daemon.states.history(name)))


async def _limited(request: Request, limit: int) -> AsyncIterator[bytes]:
    """The body as it arrives; raises BodyTooLarge at the first byte too many, or before it where a length is declared."""
    too_large = BodyTooLarge(f"The file is larger than {limit} bytes; no model has such a state.")
    if int(request.headers.get("content-length", 0)) > limit:
        raise too_large
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > limit:
            raise too_large
        yield chunk


def _whole(written: str) -> int:
    if written.isascii() and written.isdigit() and len(written) < 18 and int(written):
        return int(written)
    raise BadRequest("version must be a whole number from 1.", param="version")
