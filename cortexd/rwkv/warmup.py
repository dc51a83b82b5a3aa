"""`python -m cortexd.rwkv.warmup`: what first uses of a GPU would have to wait for, done ahead, for `cortexd warmup`.

Reads a `Task` as JSON from its standard input, says on standard error what it is at, and writes one `Report` as JSON.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import torch

from cortexd.errors import CortexdError
from cortexd.rwkv.fused import current
from cortexd.rwkv.placement import gpu_problem
from cortexd.rwkv.rehearsal import Rehearsal
from cortexd.rwkv.state import Home
from cortexd.strategies import Segment, parse
from cortexd_kernels.choices import is_kept, keep_choices
from cortexd_kernels.dispatch import fused_operators, keep_compiled
from cortexd_kernels.examiner import Examiner
from cortexd_kernels.hardware import Hardware, hardware_of
from cortexd_kernels.native.layout import FORMATS
from cortexd_kernels.plain import PlainOperators
from cortexd_kernels.toolchain import toolchain_problem
from cortexd_kernels.verdicts import Verdict, Verdicts

_TOLERANCE = 0.1  # relative RMS of logits, with weights in bf16

Tell = Callable[[str], None]


class Model(msgspec.Struct, frozen=True):
    """`sequences` are the most in one step."""

    name: str
    path: str
    strategy: str
    sequences: int


class Task(msgspec.Struct, frozen=True):
    """`prefill` is the most tokens of prompts in one step; `again`: what is known already is found out anew."""

    models: list[Model]
    cache: str
    prefill: int
    again: bool = False


class Warmed(msgspec.Struct, frozen=True):
    """One model on one device: `tuned` tiles were chosen now. `problem` is a sentence, "" where all went well."""

    model: str
    device: str
    hardware: str
    dtype: str
    problem: str = ""
    tuned: int = 0
    seconds: float = 0.0


class Report(msgspec.Struct, frozen=True):
    """`problem` is why there is nothing else."""

    problem: str = ""
    warmed: list[Warmed] = []


def warm_up(task: Task, tell: Tell) -> Report:
    """`tell` is told what is begun."""
    if problem := gpu_problem("cuda fp16") or toolchain_problem():
        return Report(problem)
    keep_compiled(Path(task.cache))
    return Report(
        warmed=[_warm(task, model, part, tell) for model in task.models for part in gpu_parts(model.strategy)]
    )


def gpu_parts(strategy: str) -> list[Segment]:
    """Each GPU that it names, with what weights and states are in there; of how many layers is left open."""
    parts = (Segment(it.device, it.dtype, states=it.states) for it in parse(strategy) if it.device != "cpu")
    return list(dict.fromkeys(parts))


def _warm(task: Task, model: Model, part: Segment, tell: Tell) -> Warmed:
    device, dtype = torch.device(part.device), part.dtype
    if problem := gpu_problem(f"{device} {dtype}"):
        return Warmed(model.name, str(device), "", dtype, problem)
    began, hardware, tuned, problem = time.monotonic(), hardware_of(device), 0, ""
    where = f"{model.name} in {dtype} on {hardware.name} ({device})"
    try:
        tell(f"{where}: checking the kernels")
        problem = _checked(task, device, dtype, hardware)
        if not problem:
            tell(f"{where}: compiling them")
            with current(device):
                home = Home(device, FORMATS[part.states])
                rehearsal = Rehearsal(Path(model.path), FORMATS[dtype], home, model.sequences, task.prefill)
                problem = _judged(task, rehearsal, hardware, dtype)
                if not problem:
                    tuned = _tune(task, rehearsal, hardware, lambda done: tell(f"{where}: {done}"))
    except CortexdError as error:
        problem = error.message
    except (RuntimeError, OSError, MemoryError) as error:  # of the driver, the disk, the compiler
        problem = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
    return Warmed(model.name, str(device), hardware.name, dtype, problem, tuned, time.monotonic() - began)


def _checked(task: Task, device: torch.device, dtype: str, hardware: Hardware) -> str:
    """Problems that are kept are looked for again: whoever warms up has probably done something about them."""
    kept = Verdicts(Path(task.cache)).find(hardware, dtype)
    anew = task.again or (kept is not None and kept.problem != "")
    return Examiner(Path(task.cache)).verdict(device, FORMATS[dtype], anew=anew).problem


def _judged(task: Task, rehearsal: Rehearsal, hardware: Hardware, dtype: str) -> str:
    """Why these operators are not fit for models of this size; no load will take them then."""
    operators = fused_operators(rehearsal.device, None)
    found, expected = rehearsal.run(operators), rehearsal.run(PlainOperators())
    if not bool(expected.isfinite().all()):
        return f"these weights are too large for {dtype}: PyTorch itself computes no finite numbers with them"
    off = float(((found - expected).square().mean() / expected.square().mean()).sqrt())
    if off <= _TOLERANCE:
        return ""
    problem = f"layers of {rehearsal.shape.width} are computed wrongly on {hardware.name} in {dtype}: they are off by {off:.1g}"
    Verdicts(Path(task.cache)).keep(hardware, Verdict(hardware.name, dtype, problem, time.time()))
    return problem


def _tune(task: Task, rehearsal: Rehearsal, hardware: Hardware, tell: Tell) -> int:
    """Choose tiles for what a rehearsal asks for, and have what was chosen compiled; how many were."""
    from cortexd_kernels import tuning  # and Triton with it

    cache, asked = Path(task.cache), tuning.Asked()
    rehearsal.run(tuning.operators_of(asked))
    questions = [it for it in asked.questions if task.again or not is_kept(cache, hardware, it.name)]
    for number, question in enumerate(questions, 1):
        tell(f"tuning {number} of {len(questions)}: {question.name}")
        choice = tuning.answer(question, rehearsal.device, tuning.measure_on_gpu)
        keep_choices(cache, hardware, {question.name: choice})
    rehearsal.run(fused_operators(rehearsal.device, cache))
    return len(questions)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    given = msgspec.json.decode(sys.stdin.buffer.read(), type=Task)
    sys.stdout.buffer.write(msgspec.json.encode(warm_up(given, _say)))
