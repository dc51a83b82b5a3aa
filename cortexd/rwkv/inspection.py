"""`python -m cortexd.rwkv.inspection`: looks at every number of a checkpoint, for `cortexd verify`, which has no PyTorch.

Reads a `Task` as JSON from its standard input, writes one `Report` as JSON.
"""

import sys
import zipfile
from pathlib import Path

import msgspec
import torch

from cortexd.errors import CortexdError
from cortexd.rwkv.checkpoint import Checkpoint, no_report
from cortexd.rwkv.quality import SAMPLE, Quality, compare
from cortexd.rwkv.runner import check_heads
from cortexd.rwkv.strategy import needs_native
from cortexd_kernels.native.library import open_native


class Task(msgspec.Struct, frozen=True):
    """`strategies` are compared with fp32, on `text` or, if it is None, on a sample; none: quality is not asked.

    With `lenient` those are left out that this machine cannot run.
    """

    path: str
    strategies: list[str] = []
    lenient: bool = False
    text: str | None = None
    threads: int = 1


class Report(msgspec.Struct, frozen=True):
    """`problem` is a sentence, "" where there is none; `left_out` are strategies."""

    problem: str
    quality: list[Quality] = []
    left_out: list[str] = []


def inspect(task: Task) -> Report:
    torch.set_num_threads(task.threads)
    path = Path(task.path)
    try:
        if problem := _damage(path):
            return Report(problem)
        return _compared(path, task) if task.strategies else Report("")
    except CortexdError as error:
        return Report(error.message)
    except (MemoryError, OSError, RuntimeError, zipfile.BadZipFile) as error:
        reason, _, _ = str(error).partition("\n")
        if isinstance(error, MemoryError) or "allocate memory" in reason:  # as PyTorch says it
            return Report(f"There is not enough memory to look at {path.name}.")
        return Report(f"{path.name} could not be looked at: {reason.rstrip('.')}.")


def _compared(path: Path, task: Task) -> Report:
    left_out: list[str] = []
    if task.lenient and open_native().library is None:
        left_out = [name for name in task.strategies if needs_native(name)]
    text = SAMPLE.read_text(encoding="utf-8") if task.text is None else task.text
    strategies = [name for name in task.strategies if name not in left_out]
    return Report("", compare(path, strategies, text), left_out)


def _damage(path: Path) -> str:
    checkpoint = Checkpoint(str(path), no_report)
    check_heads(checkpoint.shape, path.name)
    if part := _changed(path):
        return f"{path.name} is damaged: {part} in it is not what was written; download it again."
    for name, tensor in checkpoint.all():
        if not bool(torch.isfinite(tensor).all()):
            return f"{path.name} is damaged: {name} holds numbers that are not finite; download it again."
    return ""


def _changed(path: Path) -> str:
    """What in a .pth has another checksum than when it was written, "" if nothing has."""
    if path.is_dir() or not zipfile.is_zipfile(path):
        return ""
    with zipfile.ZipFile(path) as archive:
        return archive.testzip() or ""


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.json.encode(inspect(msgspec.json.decode(sys.stdin.buffer.read(), type=Task))))
