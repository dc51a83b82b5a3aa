"""What the system lets a process have: files, address space, cores; and whether workers can be made the first to be killed."""

import os
import resource
from collections.abc import Iterator
from pathlib import Path

from cortexd.doctor.finding import Finding, ok, warning
from cortexd.doctor.place import Place
from cortexd.memory.control_group import own_groups
from cortexd.sizes import size

_FEW_FILES = 1024  # a stream takes one, a model some
_NO_LIMIT = resource.RLIM_INFINITY


def open_files(limit: int | None = None) -> Finding:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0] if limit is None else limit
    if limit == _NO_LIMIT:
        return ok("open files", "As many as there are at once.")
    if limit < _FEW_FILES:
        return warning(
            "open files",
            f"At most {limit} at once, and every stream takes one.",
            "Run `ulimit -n 65536` first, or set LimitNOFILE=65536 in the unit.",
        )
    return ok("open files", f"Up to {limit} at once.")


def address_space(limit: int | None = None) -> Iterator[Finding]:
    limit = resource.getrlimit(resource.RLIMIT_AS)[0] if limit is None else limit
    if limit != _NO_LIMIT:
        yield warning(
            "address space",
            f"A process may map {size(limit)} at most: PyTorch maps far more than it uses.",
            "Run `ulimit -v unlimited`; what models hold is bounded by [memory].",
        )


def cores(place: Place, allowed: int | None = None, there: int | None = None) -> Finding:
    allowed = len(os.sched_getaffinity(0)) if allowed is None else allowed
    there = (os.cpu_count() or allowed) if there is None else there
    shares = [share for group in own_groups(place.root) if (share := _share(group.directory)) is not None]
    of = f"{allowed} of {there} may be used" if allowed < there else f"All {there} may be used"
    if shares and min(shares) < allowed:
        return warning(
            "cores",
            f"{of}, and of their time the control group gives that of {min(shares):.3g}.",
            f"Set [engine] threads = {max(1, int(min(shares)))}: threads that are stopped in the middle hold up the others.",
        )
    return ok("cores", f"{of}.")


def oom_score(place: Place) -> Finding:
    """Workers raise theirs, so that the daemon outlives them."""
    file = place.root / "proc/self/oom_score_adj"
    try:
        with file.open("r+") as opened:
            return ok("oom score", f"It is {int(opened.read())}, and workers can raise theirs.")
    except OSError as error:
        return warning(
            "oom score",
            f"It cannot be changed ({error.strerror}), so the kernel may end the daemon where a worker would do.",
            "Let /proc be writable in this container or unit.",
        )


def _share(group: Path) -> float | None:
    """How many cores' time version 2 of control groups gives; None where it sets no limit."""
    try:
        quota, period = (group / "cpu.max").read_text().split()
    except (OSError, ValueError):
        return None
    return int(quota) / int(period) if quota.isdigit() else None
