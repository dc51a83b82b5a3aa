"""Which device it is, as far as kernels may behave differently on another."""

import hashlib
import platform
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    import torch

_DRIVERS = ("/sys/module/nvidia/version", "/sys/module/amdgpu/version")


class Hardware(msgspec.Struct, frozen=True):
    """`capability` is "9.0" or "gfx942"; `driver` is the version of the kernel where the driver is a part of it."""

    name: str
    capability: str
    driver: str

    @property
    def key(self) -> str:
        """For names of files."""
        return hashlib.sha256("/".join((self.name, self.capability, self.driver)).encode()).hexdigest()[:16]


def hardware_of(device: "torch.device") -> Hardware:
    """Of a GPU that is there, or of the host."""
    import torch  # not for those who only read what is kept

    if device.type == "cpu":
        return Hardware("cpu", platform.machine(), platform.release())
    properties = torch.cuda.get_device_properties(device)
    capability = properties.gcnArchName if torch.version.hip else f"{properties.major}.{properties.minor}"
    return Hardware(properties.name, capability, _driver())


def _driver() -> str:
    for path in map(Path, _DRIVERS):
        if path.is_file():
            return path.read_text().strip()
    return platform.release()
