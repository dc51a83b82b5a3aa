"""What a model loses in smaller numbers, against itself in fp32: on the same text, how far its predictions move."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor

from cortexd.errors import BadRequest
from cortexd.rwkv.batch import Piece
from cortexd.rwkv.checkpoint import no_report
from cortexd.rwkv.runner import Runner
from cortexd.rwkv.tokenizer import tokenizer_for

REFERENCE = "cpu fp32"
SAMPLE = Path(__file__).with_name("sample.txt")
_STREAMS = 16  # parts of the text that are read side by side
_POSITIONS = 512  # predictions that are compared, at most: each takes a row of the vocabulary's width
_LEAST = 64  # tokens of a text that says anything


class Quality(msgspec.Struct, frozen=True):
    """Of `positions` predictions of the next token. `kl` is in nats; `worst_kl` is its 99th percentile."""

    strategy: str
    weight_bytes: int
    positions: int
    kl: float
    worst_kl: float
    same_top: float  # part of the predictions whose likeliest token is that of fp32
    perplexity: float


def compare(path: Path, strategies: Sequence[str], text: str) -> list[Quality]:
    """fp32 first. Raises LoadFailed, or BadRequest where the text is too short."""
    weight_bytes, exact, following = _predictions(path, REFERENCE, text)
    found = [_quality(REFERENCE, weight_bytes, exact, exact, following)]
    for strategy in strategies:
        weight_bytes, logs, _ = _predictions(path, strategy, text)
        found.append(_quality(strategy, weight_bytes, logs, exact, following))
    return found


def _quality(strategy: str, weight_bytes: int, logs: Tensor, exact: Tensor, following: Tensor) -> Quality:
    divergence = (exact.exp() * (exact - logs)).sum(-1).clamp(min=0.0)
    return Quality(
        strategy=strategy,
        weight_bytes=weight_bytes,
        positions=len(logs),
        kl=float(divergence.mean()),
        worst_kl=float(divergence.quantile(0.99)),
        same_top=float((logs.argmax(-1) == exact.argmax(-1)).float().mean()),
        perplexity=float(logs.gather(1, following.unsqueeze(1)).mean().neg().exp()),
    )


def _predictions(path: Path, strategy: str, text: str) -> tuple[int, Tensor, Tensor]:
    """Bytes of the weights; the logarithms of all probabilities `[positions, V]`; and the tokens that followed."""
    runner = Runner(str(path), strategy, _STREAMS, no_report)
    tokens = tokenizer_for(runner.shape.vocabulary).encode(text)
    if len(tokens) < _LEAST:
        raise BadRequest(f"The text has {len(tokens)} tokens; give one with at least {_LEAST}.")
    each = min(len(tokens), _POSITIONS + _STREAMS) // _STREAMS
    streams = torch.tensor(tokens[: each * _STREAMS]).view(_STREAMS, each)
    slots = [runner.pool.take() for _ in range(_STREAMS)]
    logs: list[Tensor] = []
    for column in streams.t()[:-1]:
        pieces = [Piece(slot, (int(token),)) for slot, token in zip(slots, column, strict=True)]
        logs.append(F.log_softmax(runner.run(pieces)[0].cpu(), dim=-1))
    return runner.weight_bytes, torch.cat(logs), streams.t()[1:].reshape(-1)
