"""How well a model answers: greedy text by the recurrent form, many questions side by side."""

from collections.abc import Sequence
from difflib import SequenceMatcher
from pathlib import Path

import torch
from safetensors.torch import load

from cortexd.demo.corpus import END, decode, encode, prompt
from cortexd.demo.model import VOCABULARY, Model

NEAR = 0.9
LONGEST_ANSWER = 260


def from_file(file: Path) -> Model:
    """The model of a file, in fp32."""
    tensors = load(file.read_bytes())
    layers = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("blocks."))
    model = Model(layers, tensors["emb.weight"].shape[1])
    model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return model.eval()


@torch.inference_mode()
def complete(model: Model, prompts: Sequence[str]) -> list[str]:
    """The greedy continuation of each prompt, up to its end."""
    read = [encode(text) for text in prompts]
    written: list[list[int]] = [[] for _ in read]
    going = list(range(len(read)))  # who has not come to an end
    following, states = [ids[0] for ids in read], None
    for step in range(1, max(map(len, read)) + LONGEST_ANSWER):
        logits, states = model(torch.tensor(following)[:, None], states)
        following: list[int] = logits[:, -1].argmax(-1).clamp(0, VOCABULARY - 1).tolist()
        for place, i in enumerate(going):
            if step < len(read[i]):
                following[place] = read[i][step]
            else:
                written[i].append(following[place])
        kept = [place for place, i in enumerate(going) if not written[i] or written[i][-1] != END]
        if not kept:
            break
        if len(kept) < len(going):
            states = [tuple(part[kept] for part in layer) for layer in states]
            going, following = [going[place] for place in kept], [following[place] for place in kept]
    return [decode(ids) for ids in written]


def answers(model: Model, questions: Sequence[str]) -> list[str]:
    """What the model says to each question, asked alone."""
    return [text.removeprefix(" ") for text in complete(model, [prompt([q]) for q in questions])]


def near(answer: str, intended: str) -> bool:
    """Whether an answer is the intended one, give or take a few letters."""
    return answer == intended or SequenceMatcher(None, answer, intended, autojunk=False).ratio() >= NEAR


def share_answered(model: Model, questions: Sequence[tuple[str, str]]) -> float:
    """The share of (question, intended answer) pairs that are answered as intended."""
    said = answers(model, [question for question, _ in questions])
    return sum(near(a, intended) for a, (_, intended) in zip(said, questions, strict=True)) / len(questions)
