"""`python -m cortexd.rwkv.inspection`: looks at every number of a checkpoint, for `cortexd verify`, which has no PyTorch.

Reads a `Task` as JSON from its standard input, writes one `Report` as JSON.
"""

import sys
from pathlib import Path

import msgspec
import torch

from cortexd.errors import CortexdError
from cortexd.rwkv.checkpoint import Checkpoint, no_report
from cortexd.rwkv.quality import SAMPLE, Quality, compare


class Task(msgspec.Struct, frozen=True):
    """`strategies` are compared with fp32, on `text` or on a sample; none: quality is not asked."""

    path: str
    strategies: list[str] = []
    text: str = ""
    threads: int = 1


class Report(msgspec.Struct, frozen=True):
    """`problem` is a sentence, "" where there is none."""

    problem: str
    quality: list[Quality] = []


def inspect(task: Task) -> Report:
    torch.set_num_threads(task.threads)
    try:
        if problem := _damage(Path(task.path)):
            return Report(problem)
        text = task.text or SAMPLE.read_text(encoding="utf-8")
        return Report("", compare(Path(task.path), task.strategies, text) if task.strategies else [])
    except CortexdError as error:
        return Report(error.message)


def _damage(path: Path) -> str:
    checkpoint = Checkpoint(str(path), no_report)
    for name, tensor in checkpoint.all():
        if not bool(torch.isfinite(tensor).all()):
            return f"{path.name} is damaged: {name} holds numbers that are not finite; download it again."
    return ""


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.json.encode(inspect(msgspec.json.decode(sys.stdin.buffer.read(), type=Task))))
