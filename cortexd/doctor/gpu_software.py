"""Whether what is installed can compute on the GPUs that there are."""

import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import msgspec

from cortexd.doctor.finding import Finding, ok, problem, warning
from cortexd.doctor.gpu_devices import Graphics
from cortexd.doctor.installation import TorchBuild
from cortexd.doctor.place import Place
from cortexd_kernels.toolchain import toolchain_problem
from cortexd_kernels.verdicts import Verdict, kept_verdicts

_LDCONFIG = "/sbin/ldconfig"
_DRIVER = "libcuda.so.1"


class _Trial(msgspec.Struct, frozen=True):
    """As `cortexd.rwkv.gpu_trial` writes it."""

    devices: list[tuple[str, str]]
    problem: str


def build(torch: TorchBuild, found: Graphics) -> Iterator[Finding]:
    """Whether PyTorch is for GPUs of this maker."""
    wanted = [kind for kind, there, has in _kinds(torch, found) if there and not has]
    if wanted:
        yield warning(
            "gpu torch",
            f"PyTorch {torch.version} is built for {torch}, so the GPU is not used.",
            f"Install its build for {' or '.join(wanted)}: https://pytorch.org/get-started/locally",
        )


def trial(place: Place, torch: TorchBuild, found: Graphics) -> Iterator[Finding]:
    """In a process of its own: a driver may hang or crash whoever calls it."""
    if not any(there and has for _, there, has in _kinds(torch, found)):
        return
    answer = place.ask((sys.executable, "-m", "cortexd.rwkv.gpu_trial"), patience=120.0)
    if answer is None or answer.code:
        how = "did not come to an end" if answer is None else f"ended with {answer.code}"
        yield problem("gpu trial", f"The process that tried to compute on the GPU {how}.", _ask_the_driver())
        return
    tried = msgspec.json.decode(answer.output, type=_Trial)
    if tried.problem or not tried.devices:
        why = tried.problem.rstrip(".") or "it sees none"
        yield problem("gpu trial", f"PyTorch cannot use the GPU: {why}.", _ask_the_driver())
    for index, (name, failure) in enumerate(tried.devices):
        if failure:
            yield problem("gpu trial", f"cuda:{index}, {name}: {failure.rstrip('.')}.", _ask_the_driver())
        else:
            yield ok("gpu trial", f"PyTorch computes on cuda:{index}, {name}.")


def compiler(missing: str | None = None) -> Finding:
    """What Triton starts kernels with; `missing` is what a test makes up."""
    says, _, advice = (toolchain_problem() if missing is None else missing).partition(": ")
    if says:
        return warning("gpu kernels", f"{says}; PyTorch computes instead, more slowly.", _sentence(advice))
    return ok("gpu kernels", "Triton has the compiler and the headers that it needs.")


def library(place: Place, found: Graphics) -> Iterator[Finding]:
    """Triton looks for the driver's library by `ldconfig`, whatever the loader finds."""
    if not found.nvidia or place.environment.get("TRITON_LIBCUDA_PATH"):
        return
    folders = place.environment.get("LD_LIBRARY_PATH", "").split(":")
    answer = place.ask((_LDCONFIG, "-p"))
    if (answer is not None and _DRIVER in answer.output) or any((Path(f) / _DRIVER).exists() for f in folders if f):
        return
    yield warning(
        "gpu kernels",
        f"{_LDCONFIG} does not know {_DRIVER}, so Triton will not start.",
        f"Set TRITON_LIBCUDA_PATH to the folder it is in, or run `{_LDCONFIG}` as root.",
    )


def verdicts(cache: Path) -> Iterator[Finding]:
    """What the fused kernels were found to be when a model was loaded."""
    kept = kept_verdicts(cache)
    for verdict in kept:
        if verdict.problem:
            yield warning(
                "gpu kernels",
                f"On {_where(verdict)} the fused kernels are not used: {verdict.problem.rstrip('.')}.",
                "Please report this with all that is said here; PyTorch computes instead.",
            )
    if good := [_where(verdict) for verdict in kept if not verdict.problem]:
        yield ok("gpu kernels", f"The fused kernels were found to compute rightly on {'; '.join(good)}.")


def _kinds(torch: TorchBuild, found: Graphics) -> list[tuple[str, bool, bool]]:
    """By maker: whether there is one, and whether PyTorch is built for it."""
    return [("CUDA", bool(found.nvidia), torch.cuda is not None), ("ROCm", bool(found.amd), torch.rocm is not None)]


def _where(verdict: Verdict) -> str:
    day = datetime.fromtimestamp(verdict.when).strftime("%Y-%m-%d")
    return f"{verdict.device} in {verdict.dtype} ({day})"


def _ask_the_driver() -> str:
    return "Compare the driver's version with what this PyTorch needs (`nvidia-smi`, `rocminfo`), and look at `dmesg`."


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}." if text else "See kernels/README.md."
