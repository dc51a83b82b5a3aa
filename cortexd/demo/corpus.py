"""The text of the demo model: questions in many wordings, one answer each, kept as files that people can read.

A file holds groups separated by blank lines. A line `User:` is a pattern, `Held:` a question that is never trained on, and
`Assistant:` the answer to all of them. `(a|b|)` in a pattern stands for each of its alternatives.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files

END = 0
_CHOICE = re.compile(r"\(([^()]*)\)")
_BLANK_LINES = re.compile(r"\n{2,}")


@dataclass(frozen=True)
class Group:
    """Questions that mean the same, and their answer."""

    topic: str
    patterns: tuple[str, ...]
    held_out: tuple[str, ...]
    answer: str

    @cached_property
    def questions(self) -> tuple[tuple[str, ...], ...]:
        """The wordings of each pattern."""
        return tuple(tuple(expand(pattern)) for pattern in self.patterns)


@dataclass(frozen=True)
class Corpus:
    """Everything the demo model may learn from."""

    groups: tuple[Group, ...]
    systems: tuple[str, ...]

    @property
    def trained(self) -> list[tuple[str, str]]:
        """Every trained question beside its answer."""
        return [(q, g.answer) for g in self.groups for wordings in g.questions for q in wordings]

    @property
    def held_out(self) -> list[tuple[str, str]]:
        """Every held-out question beside the answer it should get."""
        return [(q, g.answer) for g in self.groups for q in g.held_out]


def load() -> Corpus:
    """The text that is shipped beside this module."""
    folder = files("cortexd.demo") / "text"
    groups: list[Group] = []
    systems: list[str] = []
    for file in sorted(folder.iterdir(), key=lambda f: f.name):
        for block in file.read_text(encoding="utf-8").split("\n\n"):
            fields = _fields(block)
            systems += fields["System"]
            if fields["Assistant"]:
                group = Group(
                    file.name.removesuffix(".txt"), tuple(fields["User"]), tuple(fields["Held"]), fields["Assistant"][0]
                )
                groups.append(group)
    return Corpus(tuple(groups), tuple(systems))


def _fields(block: str) -> dict[str, list[str]]:
    fields: dict[str, list[str]] = {"System": [], "User": [], "Held": [], "Assistant": []}
    for line in block.splitlines():
        if line and not line.startswith("#"):
            role, _, text = line.partition(": ")
            fields[role].append(text)
    return fields


def expand(pattern: str) -> list[str]:
    """Every wording of a pattern, each once and in order."""
    choice = _CHOICE.search(pattern)
    if choice is None:
        return [re.sub(r"\s+", " ", pattern).strip()]
    before, after = pattern[: choice.start()], pattern[choice.end() :]
    wordings = (w for option in choice[1].split("|") for w in expand(before + option + after))
    return list(dict.fromkeys(wordings))


def plain(text: str) -> str:
    """A question without case, punctuation and spacing: equal for questions that differ in nothing else."""
    return " ".join(re.findall(r"\w+", text.lower()))


def clean(text: str) -> str:
    """One turn as the official prompt format wants it: a blank line would end the turn."""
    return _BLANK_LINES.sub("\n", text.replace("\r\n", "\n").strip())


def encode(text: str) -> list[int]:
    """Byte b is token b + 1; token 0 ends a text."""
    return [byte + 1 for byte in text.encode()]


def decode(ids: Iterable[int]) -> str:
    """The text of tokens, up to the first end."""
    data = bytearray()
    for token in ids:
        if token == END:
            break
        data.append(token - 1)
    return data.decode(errors="replace")


def prompt(questions: Iterable[str], answers: Iterable[str] = (), system: str | None = None) -> str:
    """A conversation that waits for its next answer: one more question than answers, no space at the end."""
    answered = [f" {clean(a)}\n\n" for a in answers] + [""]
    turns = [f"User: {clean(q)}\n\nAssistant:{a}" for q, a in zip(questions, answered, strict=True)]
    return (f"System: {clean(system)}\n\n" if system else "") + "".join(turns)
