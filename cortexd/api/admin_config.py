"""`/admin/config`: the document in force, and how another one comes to be."""

import asyncio
from collections.abc import Mapping
from typing import Any, cast

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from cortexd.api.admin_config_schema import DocumentInForce, Unchanged
from cortexd.api.bodies import json_response, read_body
from cortexd.api.decoding import decode_json
from cortexd.api.terms import TERMS, entity_tag, flag, matches, query_of, terms_of
from cortexd.config import Reading, Settings, content_hash
from cortexd.config.json_patch import patched
from cortexd.config.layers import of_toml
from cortexd.config.listing import entries, listing
from cortexd.config.merging import merged
from cortexd.config.reading import reading_of
from cortexd.configuration import Configuration, Edit, Outcome
from cortexd.daemon import Daemon
from cortexd.errors import BadRequest

_JSON, _TOML = "application/json", "application/toml"
_MERGE_PATCH, _JSON_PATCH = "application/merge-patch+json", "application/json-patch+json"
_LARGEST = (
    2**21
)  # bytes: some thousand models, and what is wrong with more of them is found while nobody else is served


class ConfigurationAdministration:
    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    async def document(self, request: Request) -> Response:
        answer = {"PUT": self._replace, "PATCH": self._patch}.get(request.method, self._read)
        return await answer(request)

    async def reload(self, request: Request) -> Response:
        query_of(request)
        outcome = await self._daemon.configuration.reload()
        return await outcome_response(self._daemon.configuration, outcome)

    async def status(self, request: Request) -> Response:
        query_of(request)
        return json_response(await self._daemon.configuration.status())

    async def _read(self, request: Request) -> Response:
        """`format=toml`: the document as a configuration file; with `origin`, what is in force and where it is from."""
        asked = query_of(request, "origin", "format")
        kind, origins = asked.get("format", "json"), flag(asked, "origin")
        if kind not in ("json", "toml"):
            raise BadRequest("format must be json or toml.", param="format")
        configuration = self._daemon.configuration
        document, reading = configuration.document, configuration.reading
        tag = entity_tag(configuration.version, document)
        headers = {"etag": tag, "cache-control": "no-cache"}
        if matches(request.headers, tag):
            return Response(status_code=304, headers=headers)
        if kind == "toml":
            text = listing(reading, origins=True) if origins else listing(Reading(document, {}))
            return Response(text, headers=headers, media_type=_TOML)
        found = DocumentInForce(
            version=configuration.version,
            hash=content_hash(document),
            document=document,
            settings=entries(reading) if origins else msgspec.UNSET,
        )
        response = json_response(found)
        response.headers.update(headers)
        return response

    async def _replace(self, request: Request) -> Response:
        kind = _media_type(request, "PUT", _JSON, _TOML)
        body = await self._body(request)
        if kind == _TOML:
            wanted = await asyncio.to_thread(_of_file, body)
        else:
            wanted = _object(decode_json(body))
        return await self._change(request, lambda _: wanted)

    async def _patch(self, request: Request) -> Response:
        kind = _media_type(request, "PATCH", _MERGE_PATCH, _JSON, _JSON_PATCH)
        patch = decode_json(await self._body(request))
        if kind == _JSON_PATCH:
            return await self._change(request, lambda document: _object(patched(document, patch)))
        change = _object(patch)
        return await self._change(request, lambda document: merged(document, change))

    async def _change(self, request: Request, edit: Edit) -> Response:
        configuration = self._daemon.configuration
        terms = terms_of(request, configuration, *TERMS)
        outcome = await configuration.change(
            edit,
            terms.origin,
            expected=terms.expected,
            confirm_within=terms.confirm_within,
            dry_run=terms.dry_run,
        )
        return await outcome_response(configuration, outcome)

    async def _body(self, request: Request) -> bytes:
        return await read_body(request, min(_LARGEST, self._daemon.settings.server.max_body_bytes))


async def outcome_response(configuration: Configuration[Any], outcome: Outcome | None) -> Response:
    """With the ETag of the version that it speaks of, though another one may be in force by now."""
    version, document = configuration.version, configuration.document
    if outcome is not None and outcome.version != version:
        assert outcome.version is not None
        version, document = outcome.version, await configuration.past(outcome.version)
    response = json_response(Unchanged() if outcome is None else outcome)
    response.headers["etag"] = entity_tag(version, document)
    return response


def _media_type(request: Request, method: str, *known: str) -> str:
    """The first of `known` where the client names none."""
    named = request.headers.get("content-type", known[0]).partition(";")[0].strip().lower()
    if named not in known:
        raise BadRequest(f"The content-type of {method} must be {' or '.join(known)}.")
    return named


def _object(document: Any) -> Mapping[str, Any]:
    if not isinstance(document, dict):
        raise BadRequest("The configuration must be a JSON object.")
    return cast("dict[str, Any]", document)


def _of_file(body: bytes) -> dict[str, Any]:
    """Raises BadRequest, InvalidConfiguration."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise BadRequest("The body is not UTF-8.") from None
    settings: Settings = reading_of([of_toml(text, "body")], ()).settings
    return msgspec.to_builtins(settings)
