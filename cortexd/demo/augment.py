"""Conversations made of the corpus: questions as people type them, several turns, a system prompt now and then."""

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cortexd.demo.corpus import END, Corpus, Group, encode, plain, prompt

USER_WEIGHT = 0.1
UNASKED = -1
_CUE = len("\n\nAssistant:")
_UNKNOWN, _SMALL_TALK = "beyond", "greetings"
_OPENINGS = (
    "Hello, ",
    "Hi! ",
    "Hi, ",
    "Hey, ",
    "So ",
    "And ",
    "Please, ",
    "Well, ",
    "By the way, ",
    "Question: ",
    "Now ",
)
_LEADS = ("Can you tell me ", "Could you tell me ", "Please tell me ", "Tell me ", "I want to know ", "Do you know ",
          "I would like to know ", "Can you explain ", "I wonder ", "Please explain ")  # fmt: skip
_CLOSINGS = (" please", ", please", " exactly", " in short", " then", " again", " here", " now", " at all")
_NAMED = (" in cortexd", " with cortexd", " of cortexd", " for cortexd")
_CONTRACTIONS = (("What is", "What's"), ("I am", "I'm"), ("do not", "don't"), ("does not", "doesn't"), ("How is", "How's"),
                 ("Where is", "Where's"), ("cannot", "can't"), ("What is", "Whats"), ("How do I", "How to"),
                 ("How do I", "How can I"), ("How do I", "How do you"), ("How do I", "How does one"))  # fmt: skip
_NEIGHBOURS = dict(zip("qwertyuiopasdfghjklzxcvbnm", "wertyuiopqsdfghjklaxcvbnmz", strict=True))


@dataclass(frozen=True)
class Example:
    """One conversation to learn: at each place the token read, the token to predict, and how much that matters.

    Where a question has been read and its answer has not begun, `meanings` says which answer is called for; else `UNASKED`.
    """

    tokens: list[int]
    targets: list[int]
    weights: list[float]
    meanings: list[int]

    def cut(self, length: int) -> "Example":
        """Its first tokens only."""
        return Example(self.tokens[:length], self.targets[:length], self.weights[:length], self.meanings[:length])


def render(turns: Sequence[tuple[str, str, int]], system: str | None = None) -> Example:
    """A conversation of turns: question, answer, and the number of that answer.

    Every answer is learned with an end after it, the inner ones too: a served model stops there, and the client sends what follows.
    """
    questions, answers, numbers = zip(*turns, strict=True)
    tokens: list[int] = []
    targets: list[int] = []
    weights: list[float] = []
    meanings: list[int] = []
    for turn, answer in enumerate(answers):
        asked = encode(prompt(questions[: turn + 1], answers[:turn], system))[len(tokens) :]
        said = encode(" " + answer)
        tokens += asked + said
        targets += [*asked[1:], *said, END]
        weights += [USER_WEIGHT] * (len(asked) - 1) + [1.0] * (len(said) + 1)
        meanings += [UNASKED] * (len(asked) - _CUE) + [numbers[turn]] * _CUE + [UNASKED] * len(said)
    return Example(tokens, targets, weights, meanings)


class Conversations:
    """An endless, seeded supply of training conversations."""

    def __init__(self, corpus: Corpus, seed: int) -> None:
        self._random = random.Random(seed)
        self._corpus = corpus
        self._held_out = {plain(q) for q, _ in corpus.held_out}
        self._shares = [float(max(4, min(40, len(g.patterns)))) for g in corpus.groups]

    def batches(self, tokens: int) -> Iterator[list[Example]]:
        """Batches of about so many tokens and of similar length, so that little of a step is spent on padding."""
        while True:
            pool = sorted((self.example() for _ in range(128)), key=lambda e: len(e.tokens))
            batches: list[list[Example]] = [[]]
            for example in pool:
                if (len(batches[-1]) + 1) * len(example.tokens) > tokens and batches[-1]:
                    batches.append([])
                batches[-1].append(example)
            self._random.shuffle(batches)
            yield from batches

    def example(self) -> Example:
        """One conversation of one to three turns.

        Many stop early in their last answer: choosing it is what takes long to learn, and its words are soon known.
        """
        length = self._random.choices((1, 2, 3), (0.66, 0.26, 0.08))[0]
        numbers = self._random.choices(range(len(self._corpus.groups)), self._shares, k=length)
        groups = [self._corpus.groups[number] for number in numbers]
        system = self._random.choice(self._corpus.systems) if self._corpus.systems and self._chance(0.1) else None
        example = render([(self.question(g), g.answer, n) for g, n in zip(groups, numbers, strict=True)], system)
        if not self._chance(0.6):
            return example
        return example.cut(len(example.tokens) - len(encode(groups[-1].answer)) + self._random.randint(4, 32))

    def question(self, group: Group) -> str:
        """A question of the group, as somebody might type it; never a held-out one."""
        wording = self._random.choice(self._random.choice(group.questions))
        if self._chance(0.35):
            return wording
        typed = self._mistyped(self._punctuated(self._cased(self._reworded(wording, group.topic))))
        return wording if not typed.strip() or plain(typed) in self._held_out else typed

    def _chance(self, probability: float) -> bool:
        return self._random.random() < probability

    def _reworded(self, text: str, topic: str) -> str:
        if self._chance(0.3):
            text = text.replace(*self._random.choice(_CONTRACTIONS))
        if self._chance(0.1):
            text = re.sub(r"\b(the|a|an) ", "", text)
        if topic == _SMALL_TALK:
            return text
        if self._chance(0.3):
            opening = self._random.choice(_LEADS if self._chance(0.4) else _OPENINGS)
            text = opening + text[0].lower() + text[1:]
        if self._chance(0.12):
            closings = _CLOSINGS if topic == _UNKNOWN or "cortexd" in text else _CLOSINGS + _NAMED
            mark = text[-1] if text[-1] in "?!." else ""
            text = text.removesuffix(mark) + self._random.choice(closings) + mark
        if self._chance(0.08):
            text = text.replace("cortexd", self._random.choice(("Cortexd", "CortexD", "the daemon", "the server")))
        return text

    def _cased(self, text: str) -> str:
        dice = self._random.random()
        return text.lower() if dice < 0.3 else text.upper() if dice < 0.33 else text

    def _punctuated(self, text: str) -> str:
        if text[-1] in "?!.":
            return text[:-1] + self._random.choice(("", "??", " ?", "!")) if self._chance(0.35) else text
        return text + self._random.choice("?.!") if self._chance(0.2) else text

    def _mistyped(self, text: str) -> str:
        for _ in range(self._random.choices((0, 1, 2), (0.78, 0.17, 0.05))[0]):
            places = [m.start() for m in re.finditer(r"(?<=[a-z])[a-z](?=[a-z])", text)]
            if not places:
                break
            at = self._random.choice(places)
            here, following = text[at], text[at + 1]
            slips = ("", here * 2, _NEIGHBOURS[here])
            slip = self._random.choice(slips)
            text = text[:at] + (following + here + text[at + 2 :] if self._chance(0.3) else slip + text[at + 1 :])
        return text
