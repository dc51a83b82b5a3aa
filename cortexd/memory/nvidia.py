"""The memory of NVIDIA GPUs, through the library of their driver (nvidia-ml-py, extra `gpu`)."""

import functools
import importlib
import os
from collections.abc import Sequence
from typing import Any

from cortexd.memory.room import Room


class Gpus:
    """The GPUs that CUDA shows this process, as `cuda:0`, `cuda:1`, …

    The driver numbers them by their place on the PCI bus; torch does so too where its environment has CUDA_DEVICE_ORDER=PCI_BUS_ID.
    """

    def __init__(self, nvml: Any, visible: str | None = None) -> None:
        """`nvml` is the module `pynvml`, initialised, or None; `visible` is what CUDA_VISIBLE_DEVICES says, None if nothing."""
        self._nvml = nvml
        self._handles: dict[str, Any] = {}
        if nvml is not None:
            self._handles = {f"cuda:{index}": handle for index, handle in enumerate(self._visible(visible))}

    def __bool__(self) -> bool:
        return bool(self._handles)

    def rooms(self) -> dict[str, Room]:
        """A GPU that does not say, because it shares the machine's memory or has just been lost, is left out."""
        found: dict[str, Room] = {}
        for device, handle in self._handles.items():
            try:
                memory = self._nvml.nvmlDeviceGetMemoryInfo(handle)
            except self._nvml.NVMLError:
                continue
            found[device] = Room(int(memory.total), int(memory.free))
        return found

    def held(self, pids: Sequence[int]) -> dict[str, int]:
        """Bytes that these processes hold together, by device; devices on which they hold none are left out.

        The driver knows processes by the ids of the host: in a container that has ids of its own none is found.
        """
        found: dict[str, int] = {}
        for device, handle in self._handles.items():
            try:
                processes = self._nvml.nvmlDeviceGetComputeRunningProcesses(handle)
            except self._nvml.NVMLError:
                continue
            if held := sum(int(p.usedGpuMemory or 0) for p in processes if p.pid in pids):
                found[device] = held
        return found

    def _visible(self, visible: str | None) -> list[Any]:
        """Numbers or UUIDs; as for CUDA, the first that does not exist ends the list."""
        if visible is None:
            visible = ",".join(str(index) for index in range(self._nvml.nvmlDeviceGetCount()))
        handles: list[Any] = []
        for name in visible.replace(" ", "").split(","):
            try:
                if name.isdigit():
                    handles.append(self._nvml.nvmlDeviceGetHandleByIndex(int(name)))
                else:
                    handles.append(self._nvml.nvmlDeviceGetHandleByUUID(name))
            except self._nvml.NVMLError:
                break
        return handles


@functools.cache
def installed_gpus() -> Gpus:
    """The GPUs of this machine: none without the library or without a driver. Decided once."""
    try:
        nvml: Any = importlib.import_module("pynvml")
    except ImportError:
        return Gpus(None)
    try:
        nvml.nvmlInit()
        return Gpus(nvml, os.environ.get("CUDA_VISIBLE_DEVICES"))
    except nvml.NVMLError:
        return Gpus(None)
