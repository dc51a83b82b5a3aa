"""From a request as the daemon sent it to a sequence that can run, or to the sentence that says why not."""

from cortexd.checkpoints.shape import ModelShape
from cortexd.errors import BadRequest, ContextExceeded
from cortexd.rwkv.initial_states import InitialStates
from cortexd.rwkv.prompt import ReplyParser, Template
from cortexd.rwkv.reading import Reading
from cortexd.rwkv.sampling import SamplerState
from cortexd.rwkv.segments import Segments
from cortexd.rwkv.sequence import Sequence
from cortexd.rwkv.tokenizer import Tokenizer
from cortexd.session_files import SessionKey
from cortexd.wire import ChatPrompt, Generate, TextPrompt


class Intake:
    """Renders and tokenizes prompts and checks what only the model can know: its vocabulary and its context."""

    def __init__(self, shape: ModelShape, tokenizer: Tokenizer, template: Template, context: int) -> None:
        self._shape = shape
        self._tokenizer = tokenizer
        self._segments = Segments(tokenizer)
        self._template = template
        self._context = context  # most prompt tokens
        self._uncounted = tokenizer.uncounted
        self.states = InitialStates(shape)

    def sequence(self, request: Generate) -> Sequence:
        """Raises BadRequest, with the field that is wrong in `param`."""
        stops, text = list(request.stop), ""
        reply: ReplyParser | None = None
        if isinstance(request.prompt, ChatPrompt):
            rendered = self._template.render(request.prompt)
            stops += rendered.stops
            reply = ReplyParser(rendered.opened)
            tokens = self._encode(rendered.text, "messages")
        elif isinstance(request.prompt, TextPrompt):
            text = request.prompt.text
            tokens = self._encode(text, "prompt")
        else:
            tokens = request.prompt.tokens
            if len(tokens) > self._context:
                raise self._too_long("prompt")
            self._check_ids(tokens, "prompt")
            text = b"".join(map(self._tokenizer.token_bytes, tokens)).decode(errors="replace") if request.echo else ""
        self._check_ids(list(request.sampling.logit_bias), "logit_bias")
        tuned = request.state
        return Sequence(
            request.id,
            tokens or [self._tokenizer.end_of_text],  # an empty prompt is the start of a fresh document
            tokenizer=self._tokenizer,
            sampler=SamplerState(request.sampling, self._uncounted),
            stops=stops,
            reply=reply,
            max_tokens=request.max_tokens or self._context,
            echo=text if request.echo else "",
            asked=request.prompt,
            tenant=request.tenant,
            initial_state=tuned,
            state=self.states.get(tuned) if tuned is not None else None,
            priority=request.priority,
            session=SessionKey(request.tenant, request.session) if request.session else None,
        )

    def recollection(self, ended: Sequence) -> Reading | None:
        """What the next turn's prompt will begin with, as far as its state can be kept; None where nobody knows."""
        if isinstance(ended.asked, ChatPrompt):
            text, closed = self._template.told(ended.asked, ended.said), True
        elif isinstance(ended.asked, TextPrompt):
            text, closed = ended.asked.text + ended.said, False
        else:
            return None
        tokens = self._segments.encode(text, self._context)
        if not 0 < len(tokens) <= self._context:
            return None
        reading = Reading.of(tokens, self._tokenizer, ended.reading.start, closed=closed)
        del reading.pieces[max(reading.kept, default=0) :]
        return reading

    def _encode(self, text: str, param: str) -> list[int]:
        try:
            tokens = self._segments.encode(text, self._context)
        except BadRequest as error:
            raise BadRequest(error.message, param=param) from error
        if len(tokens) > self._context:
            raise self._too_long(param)
        return tokens

    def _too_long(self, param: str) -> ContextExceeded:
        return ContextExceeded(
            f"The prompt has more than the {self._context} tokens that this model takes; shorten it.", param=param
        )

    def _check_ids(self, ids: list[int], param: str) -> None:
        for token in ids:
            if not 0 <= token < self._shape.vocabulary:
                raise BadRequest(
                    f"Token id {token} is outside this model's vocabulary of {self._shape.vocabulary}.", param=param
                )
