"""Compiles the native kernels into the wheel, for every instruction set of this kind of machine.

Without a C++ compiler the wheel is pure, and its kernels are compiled where they are first used.
"""

import os
import platform
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_NATIVE = Path("cortexd_kernels", "native")


class NativeKernels(BuildHookInterface[Any]):
    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":  # `make install` compiles them beside their source
            return
        sys.path.insert(0, str(Path(self.root, "kernels")))
        from cortexd_kernels.native import library  # imports nothing but the standard library

        compiler = library.find_compiler()
        if compiler is None:
            self.app.display_warning("no C++ compiler: the native kernels will be compiled where they are first used")
            return
        folder = Path(self.directory, "native")
        folder.mkdir(parents=True, exist_ok=True)
        for level in library.levels(platform.machine()):
            path = folder / library.file_name(level)
            try:
                library.build(path, level, compiler)
            except (OSError, subprocess.SubprocessError) as error:
                self.app.display_warning(f"the native kernels for {level} were not compiled: {error}")
            else:
                build_data["force_include"][str(path)] = str(_NATIVE / path.name)
                build_data["pure_python"] = False
        if not build_data["pure_python"]:
            system = os.environ.get("_PYTHON_HOST_PLATFORM") or sysconfig.get_platform()
            build_data["tag"] = f"py3-none-{system.replace('-', '_').replace('.', '_')}"
