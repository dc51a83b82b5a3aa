"""RWKV-7 on the CPU in compiled code, without PyTorch's operators: opened by `open_native`, or absent with a reason."""

from cortexd_kernels.native.library import Native, open_native
from cortexd_kernels.native.model import NativeModel
from cortexd_kernels.native.threads import Threads

__all__ = ["Native", "NativeModel", "Threads", "open_native"]
