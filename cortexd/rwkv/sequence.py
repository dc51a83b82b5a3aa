"""One generation in flight: its prompt, its place in the state pool, and the text that comes out."""

from collections.abc import Callable
from collections.abc import Sequence as Items

import msgspec

from cortexd.rwkv.batch import PIECE, Mark, Piece
from cortexd.rwkv.prompt import ReplyParser, SavedReply
from cortexd.rwkv.reading import Reading, start_of
from cortexd.rwkv.sampling import SamplerState, SavedSampler
from cortexd.rwkv.state import SavedState
from cortexd.rwkv.stops import SavedStops, StopMatcher
from cortexd.rwkv.tokenizer import TextDecoder, Tokenizer
from cortexd.session_files import SessionKey
from cortexd.wire import Delta, Finish, InitialState, Prompt, Usage


class SavedSequence(msgspec.Struct, frozen=True, kw_only=True):
    """A sequence between two steps: `state` is what its slot holds or will begin with; b"" is nothing."""

    prompt_tokens: int
    reading: Reading
    asked: Prompt | None
    said: str
    last: int
    pending: bytes  # of a character that is not complete
    sampler: SavedSampler
    stops: SavedStops
    reply: SavedReply | None
    max_tokens: int
    echo: str
    generated: int
    reasoned: int
    state: bytes
    initial_state: InitialState | None
    priority: int = 0
    session: SessionKey | None = None


class Sequence:
    """From prompt to finish. While `prefilling` it is fed pieces of its prompt, afterwards one token a step."""

    def __init__(
        self,
        id: int,
        prompt: Items[int],
        *,
        tokenizer: Tokenizer,
        sampler: SamplerState,
        stops: Items[str],
        reply: ReplyParser | None,
        max_tokens: int,
        echo: str = "",
        asked: Prompt | None = None,
        tenant: str = "",
        initial_state: InitialState | None = None,
        state: SavedState | None = None,
        priority: int = 0,
        session: SessionKey | None = None,
    ) -> None:
        """`asked` is what `prompt` was made of, for the next turn; None: there will be none. `initial_state` is what it
        began from, None for nothing; `state` where it goes on.
        """
        self.id = id
        self.prompt_tokens = len(prompt)
        self.sampler = sampler
        self.priority = priority  # the higher, the sooner
        self.session = session
        self.arrival = 0  # the lower, the earlier
        self.slot: int | None = None
        self.share = PIECE  # most tokens of its prompt in the next step
        self.initial_state = initial_state
        self.state = state  # until it has a slot
        start = start_of(tenant, initial_state.hash if initial_state is not None else "")
        self.reading = Reading.of(prompt, tokenizer, start)
        self.asked = asked
        self._said: list[str] = []
        self._last = -1
        self._tokenizer = tokenizer
        self._decoder = TextDecoder()
        self._stops = StopMatcher(stops)
        self._reply = reply
        self._max_tokens = max_tokens
        self._echo = echo
        self._generated = 0
        self._reasoned = 0

    @classmethod
    def restored(cls, id: int, saved: SavedSequence, state: SavedState | None, tokenizer: Tokenizer) -> "Sequence":
        """The sequence that was saved, as `id` from now on; `state` is that of `saved`, unpacked."""
        sequence = cls(
            id,
            (tokenizer.end_of_text,),
            tokenizer=tokenizer,
            sampler=SamplerState.restored(saved.sampler, tokenizer.uncounted),
            stops=(),
            reply=ReplyParser.restored(saved.reply) if saved.reply is not None else None,
            max_tokens=saved.max_tokens,
            echo=saved.echo,
            asked=saved.asked,
            initial_state=saved.initial_state,
            state=state,
            priority=saved.priority,
            session=saved.session,
        )
        sequence.prompt_tokens = saved.prompt_tokens
        sequence.reading = saved.reading
        sequence._said = [saved.said]
        sequence._last = saved.last
        sequence._decoder = TextDecoder(saved.pending)
        sequence._stops = StopMatcher.restored(saved.stops)
        sequence._generated, sequence._reasoned = saved.generated, saved.reasoned
        return sequence

    def save(self, state: bytes) -> SavedSequence:
        """Between two steps; `state` is what its slot holds, packed."""
        return SavedSequence(
            prompt_tokens=self.prompt_tokens,
            reading=self.reading,
            asked=self.asked,
            said=self.said,
            last=self._last,
            pending=self._decoder.pending,
            sampler=self.sampler.save(),
            stops=self._stops.save(),
            reply=self._reply.save() if self._reply is not None else None,
            max_tokens=self._max_tokens,
            echo=self._echo,
            generated=self._generated,
            reasoned=self._reasoned,
            state=state,
            initial_state=self.initial_state,
            priority=self.priority,
            session=self.session,
        )

    @property
    def said(self) -> str:
        """The answer, without thought."""
        return "".join(self._said)

    @property
    def prefilling(self) -> bool:
        return self.reading.left

    @property
    def next_length(self) -> int:
        return self.reading.next_length if self.reading.left else 1

    def next_piece(self, mark: Callable[[int], SavedState | None] | None = None) -> Piece:
        """The tokens of the next step: its share of the prompt, or the token drawn last.

        With `mark` that share may reach over the ends of the prompt's pieces: it tells where the state after so many of them goes
        to, None where nobody wants it.
        """
        assert self.slot is not None, "only an admitted sequence takes part in a step"
        if not self.reading.left:
            return Piece(self.slot, (self._last,))
        if mark is None:
            return Piece(self.slot, self.reading.next(self.share), wants_logits=not self.reading.left)
        tokens, ends = self.reading.stretch(self.share)
        marks = [Mark(after, state) for after, done in ends if (state := mark(done)) is not None]
        return Piece(self.slot, tokens, wants_logits=not self.reading.left, marks=marks)

    def accept(self, token: int) -> Delta | None:
        """Take the token that was drawn; what it brings to the client, if anything."""
        self._last = token
        if token == self._tokenizer.end_of_text:
            return self._finish("stop", self._stops.feed(self._decoder.finish())[0] + self._stops.finish())
        self._generated += 1
        released, stopped = self._stops.feed(self._decoder.feed(self._tokenizer.token_bytes(token)))
        if stopped:
            return self._finish("stop", released)
        if self._generated >= self._max_tokens:
            tail, stopped = self._stops.feed(self._decoder.finish())
            if stopped:
                return self._finish("stop", released + tail)
            return self._finish("length", released + tail + self._stops.finish())
        reasoning, content = self._parse(released)
        return self._delta(content, reasoning)

    def _finish(self, finish: Finish, text: str) -> Delta:
        reasoning, content = self._parse(text)
        if self._reply is not None:
            more_reasoning, more_content = self._reply.finish()
            reasoning, content = reasoning + more_reasoning, content + more_content
        self._said.append(content)
        usage = Usage(self.prompt_tokens, self._generated, self._reasoned, self.reading.cached)
        return Delta(self.id, self._take_echo() + content, reasoning, finish, usage)

    def _parse(self, text: str) -> tuple[str, str]:
        """Reasoning and content; a continued text is content as it stands."""
        if self._reply is None:
            return "", text
        reasoning, content = self._reply.feed(text)
        if reasoning or self._reply.reasoning:
            self._reasoned = self._generated  # thinking comes first
        return reasoning, content

    def _delta(self, content: str, reasoning: str) -> Delta | None:
        self._said.append(content)
        text = self._take_echo() + content
        return Delta(self.id, text, reasoning) if text or reasoning else None

    def _take_echo(self) -> str:
        echo, self._echo = self._echo, ""
        return echo
