"""The routes of OpenAI's API: what they take from a request and whom they hand it to."""

import asyncio
import hashlib
import re
import secrets
from collections.abc import Iterable
from time import time

import msgspec
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope, Send

from cortexd import __version__
from cortexd.api.account import Account
from cortexd.api.bodies import read_body
from cortexd.api.decoding import BodyDecoder
from cortexd.api.dialects import ChatDialect, Dialect, Heading, TextDialect
from cortexd.api.schema import LONGEST_SESSION, ChatRequest, CompletionRequest, Message, SamplingFields
from cortexd.api.streaming import Exchange, Manner
from cortexd.api.translation import generation_requests, keep_alive_of
from cortexd.catalogue.spec import ModelSpec
from cortexd.daemon import Daemon
from cortexd.engines.protocol import GenerationRequest
from cortexd.errors import BadRequest, CortexdError, UnknownModel, UnsupportedCheckpoint
from cortexd.events import Chosen
from cortexd.rollouts import Served
from cortexd.wire import InitialState

_KEEP_ALIVE = "x-cortexd-keep-alive"
_SESSION = "x-cortexd-session"
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_MOST_NAMES = 32  # of ignored fields, told to a client
_PATIENCE = re.compile(r"(?:^|[,;\s])wait=(\d{1,6})(?:$|[,;\s])")


class AnswerEndpoint:
    """ASGI endpoint of a route that answers prompts."""

    def __init__(
        self, daemon: Daemon, route: str, body: type[ChatRequest] | type[CompletionRequest], dialect: type[Dialect]
    ) -> None:
        self.route = route
        self._daemon = daemon
        self._decoder = BodyDecoder[ChatRequest | CompletionRequest](body)
        self._dialect = dialect

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        account = Account(request.state.request_id, self.route)
        try:
            exchange = await self._exchange(request, account)
            await exchange(scope, receive, send)
        except CortexdError as error:
            account.failed(error)
            raise
        except (ClientDisconnect, asyncio.CancelledError):
            account.client_left()
            raise
        except Exception:
            account.failed(CortexdError())
            raise
        finally:
            self._daemon.events.publish(account.event())

    async def _exchange(self, request: Request, account: Account) -> Exchange:
        """Raises CortexdError for whatever can be known to be wrong before the model is asked."""
        settings = self._daemon.settings.server
        asked, ignored = self._decoder.decode(await read_body(request, settings.max_body_bytes))
        session = _session(asked, request.headers)
        account.chosen = self._chosen(asked, session)
        name = account.chosen.target if account.chosen is not None else asked.model
        served = self._daemon.rollouts.serving(await find_model(self._daemon, name))
        spec = served.spec
        account.model = spec.name
        if spec.problem is not None and (loaded := self._daemon.supervisor.in_memory(spec.name)) is not None:
            spec, served = loaded, msgspec.structs.replace(served, spec=loaded)
        if spec.problem is not None:
            raise UnsupportedCheckpoint(spec.problem)
        usage_asked = asked.stream_options is not None and bool(asked.stream_options.include_usage)
        manner = Manner(
            stream=bool(asked.stream),
            patience=_patience(request.headers),
            comment_s=settings.loading_comment_s,
            usage_asked=usage_asked,
            keep_alive=_keep_alive(asked, request.headers),
            headers=told_of(ignored),
        )

        def word(served: Served) -> tuple[list[GenerationRequest], Dialect]:
            state = self._daemon.states.initial(served.spec, asked.state)
            fingerprint = _fingerprint(served.spec, state)
            heading = Heading(int(time()), served.spec.name, fingerprint, usage_asked)
            return generation_requests(asked, served.spec, state, session), self._dialect(heading)

        return Exchange(self._daemon.supervisor, self._daemon.rollouts, served, word, manner, account)

    def _chosen(self, asked: ChatRequest | CompletionRequest, session: str) -> Chosen | None:
        if (split := self._daemon.catalogue.split(asked.model)) is None:
            return None
        conversation = _conversation(asked, session)
        digest = hashlib.sha256(conversation.encode()).hexdigest()[:16]
        return Chosen(asked.model.lower(), split.choose(conversation), digest)


def chat_endpoint(daemon: Daemon) -> AnswerEndpoint:
    return AnswerEndpoint(daemon, "/v1/chat/completions", ChatRequest, ChatDialect)


def completion_endpoint(daemon: Daemon) -> AnswerEndpoint:
    return AnswerEndpoint(daemon, "/v1/completions", CompletionRequest, TextDialect)


async def find_model(daemon: Daemon, name: str) -> ModelSpec:
    """As it is wanted. Looks into the directories again before it says no, or that a file is damaged; raises UnknownModel."""
    while True:
        catalogue = daemon.catalogue
        try:
            spec = catalogue.resolve(name)
            if spec.problem is None:
                return spec
        except UnknownModel:
            await daemon.recall(name)
        await daemon.refresh_catalogue()
        if daemon.catalogue is catalogue:  # another one, of a new configuration, knows nothing of what was recalled
            return catalogue.resolve(name)


def _session(asked: SamplingFields, headers: Headers) -> str:
    """As the body says, else the header; "" for none."""
    session, param = (headers.get(_SESSION, ""), _SESSION) if asked.session is None else (asked.session, "session")
    if len(session) > LONGEST_SESSION or not session.isprintable() or session in (".", ".."):  # it stands in URLs
        raise BadRequest(f"{param} must be a name of at most {LONGEST_SESSION} printable characters.", param=param)
    return session


def _conversation(asked: ChatRequest | CompletionRequest, session: str) -> str:
    """What its requests have in common: what they say of it, else how it began."""
    said = session or asked.user
    if said or isinstance(asked, CompletionRequest):
        return said or secrets.token_hex(8)
    begin: list[Message] = []
    for message in asked.messages:
        begin.append(message)
        if message.role == "user":
            break
    return hashlib.sha256(msgspec.json.encode(begin)).hexdigest()


def _fingerprint(spec: ModelSpec, state: InitialState | None) -> str:
    """Changes with whatever may change the answers: the weights, how they are run, what they start from, and this program."""
    parts = [__version__, spec.hash, *([] if state is None else [state.hash])]
    return f"fp_{hashlib.sha256(' '.join(parts).encode()).hexdigest()[:12]}"


def told_of(ignored: Iterable[str]) -> dict[str, str]:
    """The header that names what was ignored of a body."""
    plain = [name for name in ignored if _PLAIN_NAME.fullmatch(name)][:_MOST_NAMES]
    return {"x-cortexd-ignored": ", ".join(plain)} if plain else {}


def _patience(headers: Headers) -> float | None:
    """Of `Prefer: wait=N` (RFC 7240)."""
    match = _PATIENCE.search(headers.get("prefer", ""))
    return float(match[1]) if match else None


def _keep_alive(asked: SamplingFields, headers: Headers) -> float | None:
    """As the body says, else the header."""
    if asked.keep_alive is not None:
        return keep_alive_of(asked.keep_alive, "keep_alive")
    header = headers.get(_KEEP_ALIVE)
    return None if header is None else keep_alive_of(header, _KEEP_ALIVE)
