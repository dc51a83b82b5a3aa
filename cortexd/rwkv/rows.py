"""How many rows a product needs for none of them to depend on their number."""

import msgspec
import torch
import torch.nn.functional as F

_PROBE = 64  # rows, width and outputs of the matrices that are tried
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

_known: dict[tuple[torch.dtype, int], int] = {}


class Finding(msgspec.Struct, frozen=True, array_like=True):
    dtype: str
    threads: int
    rows: int


def least_rows(dtype: torch.dtype, threads: int) -> int:
    """The fewest rows from which on a product's rows do not depend on their number, found by trying, once.

    Libraries choose another summation order for a few rows than for many (measured: MKL in fp32 below 4 rows a thread; oneDNN in
    bf16 never), so that a stream alone would drift from the same stream beside others.
    """
    if (dtype, threads) not in _known:
        _known[dtype, threads] = _try(dtype)
    return _known[dtype, threads]


def survey(cores: int) -> bytes:
    """What is found with as many threads as a share of `cores` may be, for a process that cannot try itself to `learn`."""
    findings: list[Finding] = []
    for threads in sorted({cores // engines for engines in range(1, cores + 1)}, reverse=True):
        torch.set_num_threads(threads)
        findings += [Finding(name, threads, least_rows(dtype, threads)) for name, dtype in _DTYPES.items()]
    return msgspec.msgpack.encode(findings)


def learn(findings: bytes) -> None:
    """Raises msgspec.MsgspecError where they are not what `survey` returns."""
    for finding in msgspec.msgpack.decode(findings, type=list[Finding]):
        _known[_DTYPES[finding.dtype], finding.threads] = finding.rows


@torch.inference_mode()
def _try(dtype: torch.dtype) -> int:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(_PROBE, _PROBE, generator=generator).to(dtype)
    weight = torch.randn(_PROBE, _PROBE, generator=generator).to(dtype)
    unlike: list[int] = []
    for matrix in (weight, weight.t()):  # as most lie, and as one does
        whole = F.linear(x, matrix)
        unlike += [rows for rows in range(1, _PROBE) if not torch.equal(F.linear(x[:rows], matrix), whole[:rows])]
    least = 1
    while unlike and least <= max(unlike):
        least *= 2
    return least
