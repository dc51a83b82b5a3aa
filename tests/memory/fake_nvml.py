"""The module `pynvml` of a machine that a test makes up."""

from types import SimpleNamespace


class NVMLError(Exception):
    pass


class FakeNvml:
    """One GPU an element: bytes in total, bytes free, and bytes by process id; None: it does not say."""

    NVMLError = NVMLError

    def __init__(self, *gpus: tuple[int, int, dict[int, int | None]] | None) -> None:
        self.gpus = list(gpus)

    def nvmlDeviceGetCount(self) -> int:
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        if index >= len(self.gpus):
            raise NVMLError("Invalid Argument")
        return index

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> int:
        if not uuid.startswith("GPU-"):
            raise NVMLError("Not Found")
        return self.nvmlDeviceGetHandleByIndex(int(uuid.removeprefix("GPU-")))

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:
        total, free, _ = self._gpu(handle)
        return SimpleNamespace(total=total, free=free, used=total - free)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> list[SimpleNamespace]:
        return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in self._gpu(handle)[2].items()]

    def _gpu(self, handle: int) -> tuple[int, int, dict[int, int | None]]:
        gpu = self.gpus[handle]
        if gpu is None:
            raise NVMLError("Not Supported")
        return gpu
