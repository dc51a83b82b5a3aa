"""Trains the demo model on a CPU: `python -m cortexd.demo.train --out demo.safetensors`."""

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import torch
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from cortexd.demo import corpus, path
from cortexd.demo.augment import Conversations, Example
from cortexd.demo.evaluate import share_answered
from cortexd.demo.model import HEAD, VOCABULARY, Model, loss
from cortexd.demo.muon import Muon

MUON_RATE, ADAM_RATE = 7e-3, 2e-3
WARM_UP = 30
WEIGHT_DECAY = 0.05
CLIP = 1.0
BATCH_TOKENS = 2048


def pad(batch: list[Example]) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, targets and weights `[B, T]`; what is padded weighs nothing."""
    longest = max(len(example.tokens) for example in batch)
    tokens = torch.zeros(len(batch), longest, dtype=torch.long)
    targets = torch.zeros(len(batch), longest, dtype=torch.long)
    weights = torch.zeros(len(batch), longest)
    for i, example in enumerate(batch):
        size = len(example.tokens)
        tokens[i, :size] = torch.tensor(example.tokens)
        targets[i, :size] = torch.tensor(example.targets)
        weights[i, :size] = torch.tensor(example.weights)
    return tokens, targets, weights


def optimisers(model: nn.Module) -> list[torch.optim.Optimizer]:
    """Muon for the big matrices, which halves the steps that AdamW alone would need; AdamW for the rest."""
    big = [p for name, p in model.named_parameters() if name.startswith("blocks.") and is_matrix(name, p)]
    rest = [p for name, p in model.named_parameters() if not (name.startswith("blocks.") and is_matrix(name, p))]
    muon = Muon(big, lr=MUON_RATE, weight_decay=WEIGHT_DECAY)
    return [muon, torch.optim.AdamW(rest, lr=ADAM_RATE, betas=(0.9, 0.99), eps=1e-12, weight_decay=0.0)]


def is_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter is the matrix of a linear layer."""
    return name.endswith("weight") and parameter.dim() == 2


def rate(step: int, steps: int) -> float:
    """The share of the peak learning rate at a step: a short warm-up, then a cosine to 2 %."""
    warm_up = min(WARM_UP, steps // 10 + 1)
    return min((step + 1) / warm_up, 0.51 + 0.49 * math.cos(math.pi * step / steps))


def train(model: Model, batches: Iterator[list[Example]], steps: int, report: Callable[[int, float], None]) -> None:
    """Teaches the model in place; `report` is told each step and its loss in nats per answer token."""
    both = optimisers(model)
    schedules = [torch.optim.lr_scheduler.LambdaLR(o, lambda step: rate(step, steps)) for o in both]
    for step in range(steps):
        value = loss(model, *pad(next(batches)))
        model.zero_grad()
        value.backward()  # pyright: ignore[reportUnknownMemberType] # torch leaves its arguments untyped
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        for optimiser, schedule in zip(both, schedules, strict=True):
            optimiser.step()  # pyright: ignore[reportUnknownMemberType] # torch leaves its arguments untyped
            schedule.step()
        report(step + 1, value.item())


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
    recent: list[float] = []

    def report(step: int, value: float) -> None:
        recent.append(value)
        if step % 50 == 0 or step == steps:
            mean = sum(recent) / len(recent)
            recent.clear()
            click.echo(f"step {step}/{steps}  loss {mean:.4f}  {time.monotonic() - began:.0f} s")
        if step % save_every == 0 or step == steps:
            save(model, out, {"steps": str(step), "seed": str(seed)})

    train(model, Conversations(text, seed).batches(BATCH_TOKENS), steps, report)
    for name, questions in (("trained", text.trained[::20]), ("held-out", text.held_out)):
        click.echo(f"{name}: {share_answered(model, questions):.1%} of {len(questions)} questions answered as intended")


if __name__ == "__main__":
    main()
