"""The GPUs of this machine: what is on its bus, what the driver shows, and whether this user may use it."""

import errno
import grp
import importlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from cortexd.doctor.finding import Finding, note, ok, problem, warning
from cortexd.doctor.place import Place
from cortexd.sizes import size

_NVIDIA, _AMD = "0x10de", "0x1002"  # of the PCI Special Interest Group's list
_DISPLAY = "0x03"  # the class of what draws or computes
_VERSION = re.compile(r"Kernel Module\s+(?:for \S+\s+)?(\d[\d.]*)")
_HIDING = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
_IN_A_CONTAINER = "in a container, hand the GPUs in (Docker: `--gpus all`)"


class Graphics(msgspec.Struct, frozen=True):
    """Cards on the bus, and the nodes of those that a driver offers for computing."""

    nvidia_cards: int
    amd_cards: int
    nvidia: tuple[Path, ...]
    amd: tuple[Path, ...]

    def __bool__(self) -> bool:
        return bool(self.nvidia or self.amd)


def graphics(place: Place) -> Graphics:
    makers = [_text(card / "vendor") for card in _bus(place) if _text(card / "class").startswith(_DISPLAY)]
    dev = place.root / "dev"
    compute = dev / "kfd"
    return Graphics(
        nvidia_cards=makers.count(_NVIDIA),
        amd_cards=makers.count(_AMD),
        nvidia=tuple(sorted(dev.glob("nvidia[0-9]*"))),
        amd=(compute, *sorted(dev.glob("dri/renderD*"))) if compute.exists() else (),
    )


def devices(place: Place, found: Graphics) -> Iterator[Finding]:
    if found.nvidia_cards and not found.nvidia:
        yield warning(
            "gpu",
            f"NVIDIA cards on the bus: {found.nvidia_cards}; but there is no /dev/nvidia0, as without a driver.",
            f"Install NVIDIA's driver and `modprobe nvidia`; {_IN_A_CONTAINER}.",
        )
    if found.amd_cards and not found.amd:
        yield note(
            "gpu",
            f"AMD cards on the bus: {found.amd_cards}; but there is no /dev/kfd, by which they would compute.",
            "If they should, install amdgpu and ROCm.",
        )
    if not (found or found.nvidia_cards or found.amd_cards):
        yield ok("gpu", "There is no GPU; the CPU computes.")
    if found.nvidia:
        yield ok("gpu", f"{len(found.nvidia)} of NVIDIA, {_driver(place)}.")
        yield from _unified_memory(place)
    if found.amd:
        yield ok("gpu", f"{len(found.amd) - 1} of AMD.")
    if found:
        yield from hidden(place)


def access(place: Place, found: Graphics, opener: Callable[[Path], None] | None = None) -> Iterator[Finding]:
    """Whether each node can be opened: modes do not tell what a control group forbids. `opener` raises OSError."""
    dev = place.root / "dev"
    beside = [dev / name for name in ("nvidiactl", "nvidia-uvm")] if found.nvidia else []
    nodes = [*found.nvidia, *(node for node in beside if node.exists()), *found.amd]
    for node in nodes:
        try:
            (opener or _open)(node)
        except PermissionError as error:
            yield problem(
                "gpu access",
                f"{node} may not be opened by user {os.geteuid()} ({error.strerror}).",
                _how_to_open(node, error),
            )
        except OSError as error:
            yield problem(
                "gpu access", f"{node} does not open ({error.strerror}).", "Look with `dmesg` at what the driver says."
            )
        else:
            continue
        return  # the others fail alike
    if nodes:
        yield ok("gpu access", f"All {len(nodes)} device nodes can be opened.")


def hidden(place: Place) -> Iterator[Finding]:
    for name in _HIDING:
        if (value := place.environment.get(name)) is not None:
            shown = f"{name}={value!r}"
            all_of_them = value.strip() in ("", "-1")
            yield note(
                "gpu", f"{shown} {'hides all GPUs' if all_of_them else 'decides which are seen'}.", f"Unset {name}."
            )


def nvml(library: Any = None) -> Iterator[Finding]:
    """`library` is the module `pynvml`, unless it is to be looked for."""
    try:
        library = library or importlib.import_module("pynvml")
    except ImportError:
        yield warning(
            "nvml",
            "nvidia-ml-py is not installed: the memory of GPUs is not counted, and `auto` computes on the CPU.",
            "`pip install nvidia-ml-py`.",
        )
        return
    try:
        library.nvmlInit()
        count = library.nvmlDeviceGetCount()
    except library.NVMLError as error:
        yield problem(
            "nvml",
            f"The driver's library does not answer ({error}).",
            "Install the libraries of the driver's own version; after an update of it, restart the machine.",
        )
        return
    for index in range(count):
        yield _described(library, index)


def _described(library: Any, index: int) -> Finding:
    try:
        handle = library.nvmlDeviceGetHandleByIndex(index)
        name, room = library.nvmlDeviceGetName(handle), library.nvmlDeviceGetMemoryInfo(handle)
    except library.NVMLError as error:
        return problem(
            "nvml", f"cuda:{index} does not answer ({error}).", "Look with `dmesg` for Xid, and at `nvidia-smi`."
        )
    return ok("nvml", f"cuda:{index} is {name}, {size(room.total)}, of which {size(room.free)} are free.")


def _unified_memory(place: Place) -> Iterator[Finding]:
    if not (place.root / "dev/nvidia-uvm").exists():
        yield problem(
            "gpu",
            "There is no /dev/nvidia-uvm, without which CUDA does not start.",
            f"`nvidia-modprobe -u -c=0`, and nvidia_uvm in /etc/modules-load.d; {_IN_A_CONTAINER}.",
        )


def _driver(place: Place) -> str:
    said = _VERSION.search(_text(place.root / "proc/driver/nvidia/version"))
    return f"driver {said[1]}" if said else "the version of the driver is not shown"


def _bus(place: Place) -> list[Path]:
    try:
        return sorted((place.root / "sys/bus/pci/devices").iterdir())
    except OSError:
        return []


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace").strip()
    except OSError:
        return ""


def _open(node: Path) -> None:
    os.close(os.open(node, os.O_RDWR | os.O_CLOEXEC))


def _how_to_open(node: Path, error: PermissionError) -> str:
    if error.errno == errno.EPERM:  # the modes allow it
        return f"A control group forbids it: DeviceAllow= in the unit; {_IN_A_CONTAINER}."
    group = _group(node)
    if group == "root":
        return f"`chmod a+rw {node}`; for good, the driver's NVreg_DeviceFileMode=0666."
    return f"`usermod -aG {group} USER`, and log in again."


def _group(node: Path) -> str:
    number = node.stat().st_gid
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)
