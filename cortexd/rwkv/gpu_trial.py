"""`python -m cortexd.rwkv.gpu_trial`: whether PyTorch computes on the GPUs it sees, for `cortexd doctor`, which has no PyTorch.

Writes one `Trial` as JSON to its standard output.
"""

import sys

import msgspec
import torch


class Trial(msgspec.Struct, frozen=True):
    """`devices` are names, and what failed there, "" where nothing did; `problem` is why none is seen at all."""

    devices: list[tuple[str, str]]
    problem: str = ""


def trial() -> Trial:
    try:
        torch.cuda.init()  # says why not, where counting gives 0
        count = torch.cuda.device_count()
        return Trial([(torch.cuda.get_device_name(index), _failure(index)) for index in range(count)])
    except (RuntimeError, AssertionError) as error:
        return Trial([], _first_line(error))


def _failure(index: int) -> str:
    try:
        ones = torch.ones(64, 64, device=f"cuda:{index}", dtype=torch.float16)
        return "" if float((ones @ ones)[0, 0]) == 64.0 else "it computes wrongly"
    except RuntimeError as error:
        return _first_line(error)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.json.encode(trial()))
