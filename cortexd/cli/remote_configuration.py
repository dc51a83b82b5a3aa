"""The daemon's configuration, over its admin API."""

import asyncio
import getpass
import os
import tempfile
from pathlib import Path
from typing import Any

import httpx
import msgspec

from cortexd.cli.client import answer, connect, download
from cortexd.store.replacement import sync

CONFIG, SNAPSHOTS = "/admin/config", "/admin/snapshots"
TOML = "application/toml"


class Proposal(msgspec.Struct, frozen=True, kw_only=True):
    """A change, as the daemon is asked for it."""

    method: str
    path: str
    content: bytes = b""
    media_type: str = "application/json"


class InForce(msgspec.Struct, frozen=True):
    version: int | None
    tag: str  # what a change is made for


class RemoteConfiguration:
    """Each call is a request of its own. All raise DaemonUnreachable, and what the daemon answers."""

    def __init__(self, address: str | None) -> None:
        self._address = address

    def get(self, path: str, **query: Any) -> Any:
        return self.fetch(path, **query).json()

    def fetch(self, path: str, **query: Any) -> httpx.Response:
        return self._ask("GET", path, params=_given(query))

    def post(self, path: str) -> Any:
        return self._ask("POST", path, headers=_who()).json()

    def in_force(self) -> InForce:
        response = self.fetch(CONFIG)
        return InForce(response.json()["version"], response.headers["etag"])

    def propose(self, proposal: Proposal, match: str, **query: Any) -> dict[str, Any]:
        """The outcome of the change, made for the version that `match` is the tag of."""
        headers = {**_who(), "if-match": match.encode(), "content-type": proposal.media_type.encode()}
        response = self._ask(
            proposal.method, proposal.path, content=proposal.content, headers=headers, params=_given(query)
        )
        return response.json()

    def save(self, path: str, file: Path) -> None:
        """What is at `path`, in the place of `file`: whole or not at all, and for its owner alone."""

        async def saving(place: Path) -> None:
            async with connect(self._address) as client:
                await download(client, path, place)

        file = file.resolve()
        with tempfile.TemporaryDirectory(dir=file.parent, prefix=".cortexd-") as folder:
            place = Path(folder) / file.name
            asyncio.run(saving(place))
            place.chmod(0o600)
            sync(place)
            place.replace(file)
        sync(file.parent)

    def _ask(self, method: str, path: str, **request: Any) -> httpx.Response:
        async def asking() -> httpx.Response:
            async with connect(self._address) as client:
                return await answer(client, method, path, **request)

        return asyncio.run(asking())


def _given(query: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in query.items() if value not in (None, "", False)}


def _who() -> dict[str, bytes]:
    """Headers, in bytes: httpx takes nothing but ASCII for text."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a user without a name
        user = str(os.getuid())
    return {"x-cortexd-source": b"cli", "x-cortexd-author": user.encode()}
