"""`/admin/snapshots`: every configuration that was, and the way back to it."""

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from cortexd.api.admin_config import outcome_response
from cortexd.api.admin_config_schema import (
    Comparison,
    FaultFacts,
    History,
    TermsInBody,
    Verification,
    snapshot_facts,
    snapshot_report,
)
from cortexd.api.admin_journal import whole
from cortexd.api.bodies import json_response, read_body
from cortexd.api.decoding import BodyDecoder
from cortexd.api.terms import TERMS, query_of, terms_of
from cortexd.daemon import Daemon
from cortexd.errors import BadRequest
from cortexd.store.change import changes
from cortexd.store.change_text import change_lines
from cortexd.store.patch import json_patch
from cortexd.store.snapshots import Snapshots

_USUAL_ROWS, _MOST_ROWS = 100, 1000
_MOST_VERSION = 10**18 - 1
_LARGEST_BUNDLE = 2**28  # bytes
_bodies = BodyDecoder(TermsInBody)


class SnapshotAdministration:
    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    @property
    def _snapshots(self) -> Snapshots:
        """Raises StoreFailed where nothing is kept."""
        return self._daemon.configuration.snapshots

    async def all(self, request: Request) -> Response:
        """Newest first; `before` is the version of the last one seen."""
        asked = query_of(request, "limit", "before")
        limit = whole(asked, "limit", _MOST_ROWS)
        before = whole(asked, "before", _MOST_VERSION)
        head = await self._snapshots.head()
        found = await self._snapshots.history(_USUAL_ROWS if limit is None else limit, before)
        return json_response(
            History(
                snapshots=[snapshot_facts(snapshot) for snapshot in found],
                current=head and head.current.version,
                confirmed=head and head.confirmed.version,
                revert_at=head and head.revert_deadline,
            )
        )

    async def one(self, request: Request) -> Response:
        query_of(request)
        return json_response(snapshot_report(await self._snapshots.get(request.path_params["version"])))

    async def diff(self, request: Request) -> Response:
        """What is different in `b`; lines alone for whoever accepts text/plain."""
        query_of(request)
        before = (await self._snapshots.get(request.path_params["a"])).document
        after = (await self._snapshots.get(request.path_params["b"])).document
        different = changes(before, after)
        text = "".join(f"{line}\n" for line in change_lines(different))
        if "text/plain" in request.headers.get("accept", ""):
            return PlainTextResponse(text)
        return json_response(Comparison(changes=different, patch=json_patch(before, after), text=text))

    async def rollback(self, request: Request) -> Response:
        configuration, version = self._daemon.configuration, request.path_params["version"]
        terms = terms_of(request, configuration, *TERMS, body=await self._terms_in_body(request))
        outcome = await configuration.rollback(
            version,
            terms.author,
            terms.reason,
            expected=terms.expected,
            confirm_within=terms.confirm_within,
            dry_run=terms.dry_run,
        )
        return await outcome_response(configuration, outcome)

    async def confirm(self, request: Request) -> Response:
        query_of(request)
        version = request.path_params["version"]
        await self._snapshots.get(version)  # raises UnknownVersion
        await self._daemon.configuration.confirm(version)
        return json_response(await self._daemon.configuration.status())

    async def pin(self, request: Request) -> Response:
        return await self._pin(request, True)

    async def unpin(self, request: Request) -> Response:
        return await self._pin(request, False)

    async def export(self, request: Request) -> Response:
        query_of(request)
        headers = {"content-disposition": 'attachment; filename="cortexd-snapshots.jsonl"'}
        return Response(await self._snapshots.export(), headers=headers, media_type="application/jsonl")

    async def import_bundle(self, request: Request) -> Response:
        configuration = self._daemon.configuration
        terms = terms_of(request, configuration, "reason")
        packed = await read_body(request, _LARGEST_BUNDLE)
        outcome = await configuration.import_bundle(packed, terms.author, terms.reason, expected=terms.expected)
        return await outcome_response(configuration, outcome)

    async def verify(self, request: Request) -> Response:
        query_of(request)
        fault = await self._snapshots.verify()
        return json_response(Verification(None if fault is None else FaultFacts(*fault)))

    async def _pin(self, request: Request, pinned: bool) -> Response:
        query_of(request)
        version = request.path_params["version"]
        await self._snapshots.pin(version, pinned)
        return json_response(snapshot_facts(await self._snapshots.get(version)))

    async def _terms_in_body(self, request: Request) -> TermsInBody:
        body = await read_body(request, self._daemon.settings.server.max_body_bytes)
        if not body:
            return TermsInBody()
        terms, ignored = _bodies.decode(body)
        if ignored:
            raise BadRequest(f"The body says something unknown; known here are {', '.join(TERMS)}.")
        return terms
