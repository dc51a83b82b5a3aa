"""`python -m cortexd_kernels.native`: compile the kernels for this processor, once for everybody who uses this installation."""

import subprocess
import sys

from cortexd_kernels.native.library import build_here


def main() -> None:
    try:
        print(f"compiled {build_here().name}")
    except (OSError, subprocess.SubprocessError) as error:
        said = error.stderr if isinstance(error, subprocess.CalledProcessError) else str(error)
        print(f"The native kernels were not compiled, PyTorch computes instead: {said}", file=sys.stderr)


if __name__ == "__main__":
    main()
