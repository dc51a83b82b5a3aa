"""The threads of the native kernels."""

import ctypes
import weakref
from ctypes import c_int32, c_void_p

from cortexd_kernels.native.library import Native


class Threads:
    """Threads that native calls share; `count` may be set between calls. They start with the first call: fork before it."""

    def __init__(self, native: Native, count: int = 1) -> None:
        assert native.library is not None, native.description
        self.library: ctypes.CDLL = native.library
        self.library.cortexd_pool_new.restype = c_void_p
        self.library.cortexd_pool_free.restype = None
        self._pool = c_void_p(self.library.cortexd_pool_new())
        self.count = count
        self._end = weakref.finalize(self, self.library.cortexd_pool_free, self._pool)

    def call(self, name: str, *args: object, of: c_void_p | None = None) -> None:
        """The library's function `name` with the pool, the number of threads and `args`, after the object it is a function of."""
        function = getattr(self.library, name)
        function.restype = None
        function(*([] if of is None else [of]), self._pool, c_int32(self.count), *args)
