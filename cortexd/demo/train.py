"""Trains the demo model on a CPU: `python -m cortexd.demo.train --out demo.safetensors`."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import click
import torch
import torch.nn.functional as F
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from cortexd.demo import corpus, path
from cortexd.demo.augment import UNASKED, Conversations, Example
from cortexd.demo.corpus import END
from cortexd.demo.evaluate import from_file, share_answered
from cortexd.demo.model import HEAD, VOCABULARY, Model
from cortexd.demo.muon import Muon

MUON_RATE, ADAM_RATE = 7e-3, 2e-3
WARM_UP = 30
WEIGHT_DECAY = 0.05
CLIP = 1.0
GUIDE_WEIGHT = 0.2
BATCH_TOKENS = 2048


class Batch(NamedTuple):
    """Conversations side by side, each tensor `[B, T]`; what is padded weighs nothing and asks nothing."""

    tokens: Tensor
    targets: Tensor
    weights: Tensor
    meanings: Tensor


def pad(batch: list[Example]) -> Batch:
    """The batch as tensors."""
    longest = max(len(example.tokens) for example in batch)

    def table(rows: Iterable[list[int]] | Iterable[list[float]], filler: float) -> Tensor:
        return torch.tensor([row + [filler] * (longest - len(row)) for row in rows])

    return Batch(
        table((e.tokens for e in batch), END),
        table((e.targets for e in batch), END),
        table((e.weights for e in batch), 0.0),
        table((e.meanings for e in batch), UNASKED),
    )


class Lesson(nn.Module):
    """A model, and a guide that is thrown away after training.

    The guide names the answer as soon as the question has been read. Without it the model has to find out what questions mean
    from the first letters of the answers alone, which takes several times as long.
    """

    def __init__(self, model: Model, answers: int) -> None:
        super().__init__()
        self.model = model
        self.guide = nn.Linear(model.emb.embedding_dim, answers)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The loss of the text in nats per weighted token, and of the guide in nats per place."""
        x, _ = self.model.read(batch.tokens)
        logits = self.model.head(x)
        each = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), reduction="none")
        asked = batch.meanings != UNASKED
        text = (each * batch.weights.flatten()).sum() / batch.weights.sum()
        return text, F.cross_entropy(self.guide(x[asked]), batch.meanings[asked])


def optimisers(lesson: Lesson) -> list[torch.optim.Optimizer]:
    """Muon for the big matrices, which halves the steps that AdamW alone would need; AdamW for the rest."""
    named = list(lesson.named_parameters())
    big = [p for name, p in named if ".blocks." in name and name.endswith("weight") and p.dim() == 2]
    rest = [p for _, p in named if all(p is not other for other in big)]
    muon = Muon(big, lr=MUON_RATE, weight_decay=WEIGHT_DECAY)
    return [muon, torch.optim.AdamW(rest, lr=ADAM_RATE, betas=(0.9, 0.99), eps=1e-12, weight_decay=0.0)]


def rate(step: int, steps: int) -> float:
    """The share of the peak learning rate at a step: a short warm-up, then a cosine to 2 %."""
    warm_up = min(WARM_UP, steps // 10 + 1)
    return min((step + 1) / warm_up, 0.51 + 0.49 * math.cos(math.pi * step / steps))


def train(
    lesson: Lesson, batches: Iterator[list[Example]], steps: int, report: Callable[[int, float, float], None]
) -> None:
    """Teaches the model in place; `report` is told each step and its two losses."""
    both = optimisers(lesson)
    schedules = [torch.optim.lr_scheduler.LambdaLR(o, lambda step: rate(step, steps)) for o in both]
    for step in range(steps):
        text, guide = lesson(pad(next(batches)))
        lesson.zero_grad()
        (text + GUIDE_WEIGHT * guide).backward()  # pyright: ignore[reportUnknownMemberType] # torch leaves its arguments untyped
        nn.utils.clip_grad_norm_(lesson.parameters(), CLIP)
        for optimiser, schedule in zip(both, schedules, strict=True):
            optimiser.step()  # pyright: ignore[reportUnknownMemberType] # torch leaves its arguments untyped
            schedule.step()
        report(step + 1, text.item(), guide.item())


def save(model: Model, out: Path, metadata: dict[str, str]) -> None:
    """Writes the weights as bf16 in one move, so that nobody reads half a file."""
    tensors = {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in model.state_dict().items()}
    described = {
        "tokenizer": "byte",
        "architecture": "rwkv7",
        "vocabulary": str(VOCABULARY),
        "head_size": str(HEAD),
        "licence": "Apache-2.0",
        **metadata,
    }
    unfinished = out.with_suffix(".partial")
    unfinished.write_bytes(to_bytes(tensors, described))
    unfinished.replace(out)


@click.command()
@click.option("--steps", default=1600, show_default=True, help="Batches to learn from.")
@click.option("--seed", default=7, show_default=True, help="Of the first weights and of the conversations.")
@click.option("--threads", default=2, show_default=True, help="Threads that PyTorch may use.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=path, help="Where the weights go; the shipped ones by default."
)
@click.option("--save-every", default=200, show_default=True, help="Steps between unfinished versions of the file.")
def main(steps: int, seed: int, threads: int, out: Path, save_every: int) -> None:
    """Train the demo model and report how it answers questions that it never saw."""
    torch.set_num_threads(threads)
    torch.manual_seed(seed)  # pyright: ignore[reportUnknownMemberType] # torch leaves its arguments untyped
    text = corpus.load()
    model = Model()
    began = time.monotonic()
    recent: list[tuple[float, float]] = []

    def report(step: int, loss: float, guide: float) -> None:
        recent.append((loss, guide))
        if step % 50 == 0 or step == steps:
            mean, missed = (sum(losses) / len(recent) for losses in zip(*recent, strict=True))
            recent.clear()
            click.echo(f"step {step}/{steps}  loss {mean:.4f}  guide {missed:.3f}  {time.monotonic() - began:.0f} s")
        if step % save_every == 0 or step == steps:
            save(model, out, {"steps": str(step), "seed": str(seed)})

    lesson = Lesson(model, len(text.groups))
    train(lesson, Conversations(text, seed).batches(BATCH_TOKENS), steps, report)
    shipped = from_file(out)  # rounded to bf16, as users get it
    for name, questions in (("trained", text.trained[::20]), ("held-out", text.held_out)):
        click.echo(
            f"{name}: {share_answered(shipped, questions):.1%} of {len(questions)} questions answered as intended"
        )


if __name__ == "__main__":
    main()
