"""The native library for tests, compiled once for all of them; or a reason to skip."""

import tempfile
from pathlib import Path

import pytest

from cortexd_kernels.native.library import Native, open_native

CACHE = Path(tempfile.gettempdir()) / "cortexd-test-native"


def native_or_skip() -> Native:
    native = open_native(CACHE)
    if native.library is None:
        pytest.skip(native.description)
    return native
