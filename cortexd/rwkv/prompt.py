"""The chat formats of RWKV's authors: turns as a text to be continued, and the continuation as thought and answer.

Source: ChatRWKV's API_DEMO_CHAT and RWKV-LM's RWKV7-G1x-templates.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from cortexd.errors import BadRequest, LoadFailed
from cortexd.wire import TEMPLATES, ChatPrompt, Effort, Turn, one_of

Expected = Literal["end of tag", "blanks", "one blank"]

LABELS = ("System", "User", "Assistant")
STOPS = ("\n\nUser:", "\n\nSystem:")

# The tags stay open: the model was trained on the token that begins with ">".
_THINK = " <think"
_FAST = " <think>\n</think"
_THOUGHT_ENDS = "</think>"
_HINTS: dict[Effort, str] = {"low": " (think a bit)", "high": " (think a lot)"}
_OLD_THOUGHT = re.compile(r"\A\s*<think>.*?(?:</think>|\Z)", re.DOTALL)
_THINKING_FAMILY = re.compile(r"(?:^|[-_ ])g[01](?:[a-z]\d*)?(?:[-_. ]|$)", re.IGNORECASE)


@dataclass(frozen=True)
class Rendered:
    """A prompt. `opened` is what it already holds of the reply; None where the client wrote the reply's beginning."""

    text: str
    stops: list[str]
    opened: str | None


@dataclass(frozen=True)
class Template:
    """How chats are put to a model. Unless it `thinks`, a request's effort has no meaning; `effort` is the default."""

    thinks: bool
    effort: Effort = "medium"

    def render(self, chat: ChatPrompt) -> Rendered:
        """Raises BadRequest where there are no turns. A last turn of the assistant is continued, not answered."""
        if not chat.turns:
            raise BadRequest("The chat has no messages; send at least one.", param="messages")
        *past, last = chat.turns
        if last.role == "assistant":
            beginning, opened = self._beginning(last.text)
            return _rendered([*map(_turn, past), beginning], opened)
        effort = (chat.effort or self.effort) if self.thinks else None
        opened = "" if effort is None else _FAST if effort == "none" else _THINK
        turns = _hinted(chat.turns, _HINTS.get(effort, "")) if effort else chat.turns
        return _rendered([*map(_turn, turns), f"Assistant:{opened}"], opened)

    def told(self, chat: ChatPrompt, answer: str) -> str:
        """What the next turn's prompt will begin with, when this chat was answered so."""
        turns = list(chat.turns)
        begun = turns.pop().text if turns[-1].role == "assistant" else ""
        texts = [*map(_turn, turns), _turn(Turn("assistant", begun + answer))]
        return "\n\n".join([*filter(None, texts), ""])

    def _beginning(self, text: str) -> tuple[str, str | None]:
        text = text.replace("\r\n", "\n").lstrip()
        # A blank belongs to the token after it, so a prompt must not end in one: the model writes it, the parser drops it.
        shown = text.rstrip(" ")
        turn = _labelled("Assistant", shown)
        if self.thinks and "<think" in shown and _THOUGHT_ENDS not in shown:
            return turn, _THINK
        return turn, None if shown and shown == text else ""


_TEMPLATES = {
    "chat": Template(thinks=False),
    "think": Template(thinks=True),
    "fast": Template(thinks=True, effort="none"),
}


def template_for(setting: str, model_name: str) -> Template:
    """The template a model is configured with; `auto` goes by the name: G0 and G1 think. Raises LoadFailed."""
    if setting == "auto":
        setting = "think" if _THINKING_FAMILY.search(model_name) else "chat"
    if setting not in _TEMPLATES:
        raise LoadFailed(f"The template {setting!r} is not known: use {one_of(TEMPLATES)}.")
    return _TEMPLATES[setting]


class SavedReply(msgspec.Struct, frozen=True, array_like=True):
    """A parser between two pieces of text."""

    reasoning: bool
    expected: Expected | None
    held: str


class ReplyParser:
    """Splits what a model writes after a prompt that `opened` the reply into its thought and its answer.

    Dropped are the one blank before a plain answer and whatever completes a tag that the prompt left open. With `opened`
    None the text passes as it is.
    """

    def __init__(self, opened: str | None) -> None:
        self._reasoning = opened == _THINK
        # What the model writes next that belongs neither to the thought nor to the answer.
        self._expected: Expected | None = None if opened is None else "end of tag" if opened else "one blank"
        self._held = ""

    @classmethod
    def restored(cls, saved: SavedReply) -> "ReplyParser":
        parser = cls(None)
        parser._reasoning, parser._expected, parser._held = saved.reasoning, saved.expected, saved.held
        return parser

    def save(self) -> SavedReply:
        return SavedReply(self._reasoning, self._expected, self._held)

    @property
    def reasoning(self) -> bool:
        """Whether the model is still thinking."""
        return self._reasoning

    def feed(self, text: str) -> tuple[str, str]:
        """The next piece of reasoning, and of content."""
        text = self._without_expected(text)
        if not self._reasoning:
            return "", text
        text = self._held + text
        reasoning, tag, content = text.partition(_THOUGHT_ENDS)
        if tag:
            self._reasoning, self._expected, self._held = False, "blanks", ""
            return reasoning, self._without_expected(content)
        self._held = _begun_tag(text)
        return text[: len(text) - len(self._held)], ""

    def finish(self) -> tuple[str, str]:
        """What was held back: the beginning of a tag that never came."""
        held, self._held = self._held, ""
        return held, ""

    def _without_expected(self, text: str) -> str:
        if not text or self._expected is None:
            return text
        if self._expected == "one blank":
            self._expected = None
            return text.removeprefix(" ")
        if self._expected == "end of tag":
            self._expected = "blanks"
            text = text.removeprefix(">")
        text = text.lstrip()
        if text:
            self._expected = None
        return text


def _rendered(turns: Sequence[str], opened: str | None) -> Rendered:
    return Rendered("\n\n".join(turn for turn in turns if turn), list(STOPS), opened)


def _turn(turn: Turn) -> str:
    """A past message; nothing for an empty one that would only teach the model to say nothing."""
    match turn.role:
        case "system":
            text = _clean(turn.text)
            return _labelled("System", text) if text else ""
        case "user":
            return _labelled("User", _clean(turn.text))
        case "tool":
            return _labelled("User", _clean(f"Function output:\n{turn.text}"))
        case "assistant":
            # Its blank lines stay: they are what the model wrote, and the text up to here may be in the state cache.
            text = _OLD_THOUGHT.sub("", turn.text.replace("\r\n", "\n")).strip()
            return _labelled("Assistant", text) if text else ""


def _labelled(label: str, text: str) -> str:
    return f"{label}: {text}" if text else f"{label}:"


def _clean(text: str) -> str:
    # A blank line ends a turn.
    return re.sub(r"\n{2,}", "\n", text.replace("\r\n", "\n").strip())


def _hinted(turns: Sequence[Turn], hint: str) -> list[Turn]:
    last = max((i for i, turn in enumerate(turns) if turn.role == "user"), default=-1)
    return [Turn(turn.role, turn.text.rstrip() + hint) if i == last else turn for i, turn in enumerate(turns)]


def _begun_tag(text: str) -> str:
    """The longest end of `text` that is a beginning of the tag."""
    for length in range(min(len(_THOUGHT_ENDS) - 1, len(text)), 0, -1):
        if text.endswith(_THOUGHT_ENDS[:length]):
            return text[-length:]
    return ""
