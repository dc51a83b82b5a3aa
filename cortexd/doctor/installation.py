"""What is installed: Python, cortexd, PyTorch and Triton. Nothing of it is imported."""

import platform
import sys
from pathlib import Path

import msgspec

from cortexd import __version__
from cortexd.doctor.finding import Finding, note, ok, problem
from cortexd.doctor.place import Place
from cortexd.engines.torch_build import constants_of

_OLDEST = (3, 11)


class TorchBuild(msgspec.Struct, frozen=True):
    """What this PyTorch was built for; neither CUDA nor ROCm: the CPU alone."""

    version: str
    cuda: str | None
    rocm: str | None

    def __str__(self) -> str:
        if self.cuda is not None:
            return f"CUDA {self.cuda}"
        return "the CPU alone" if self.rocm is None else f"ROCm {self.rocm}"


def system(kind: str = sys.platform) -> Finding:
    says = f"{platform.system()} {platform.release()} on {platform.machine()}."
    if kind != "linux":
        return problem("system", says, "cortexd runs on Linux: use a virtual machine or a container.")
    return ok("system", says)


def python(version: tuple[int, ...] = sys.version_info[:3]) -> Finding:
    says = f"Python {'.'.join(map(str, version))} at {sys.executable}."
    if version < _OLDEST:
        return problem("python", says, "cortexd needs Python 3.11 or later: make its environment with one.")
    return ok("python", says)


def cortexd() -> Finding:
    return ok("cortexd", f"cortexd {__version__} in {Path(__file__).parents[1]}.")


def torch(place: Place) -> Finding:
    build = torch_build(place)
    if build is None:
        return problem("torch", "PyTorch is not installed, so no model can be computed.", "Run `pip install torch`.")
    return ok("torch", f"PyTorch {build.version}, built for {build}.")


def triton(place: Place) -> Finding:
    folder = place.package("triton")
    if folder is None:
        return ok("triton", "Triton is not installed; only a GPU needs it.")
    version = constants_of(folder / "__init__.py").get("__version__")
    if version is None:
        return note("triton", f"Triton is in {folder}, and does not say its version.")
    return ok("triton", f"Triton {version}.")


def torch_build(place: Place) -> TorchBuild | None:
    """None where there is no PyTorch."""
    if (folder := place.package("torch")) is None:
        return None
    said = constants_of(folder / "version.py")
    return TorchBuild(said.get("__version__") or "of an unknown version", said.get("cuda"), said.get("hip"))
