"""Trees of /proc and /sys that a test makes up."""

from pathlib import Path

GB = 10**9
V2 = "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
V1 = "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory"


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


def meminfo(total: int, available: int) -> dict[str, str]:
    lines = f"MemTotal: {total // 1024} kB\nMemFree: 1 kB\nMemAvailable: {available // 1024} kB\nHugePages_Total: 0\n"
    return {"proc/meminfo": lines}


def psi(some: float, full: float) -> str:
    tail = "avg60=0.00 avg300=0.00 total=0"
    return f"some avg10={some:.2f} {tail}\nfull avg10={full:.2f} {tail}\n"


def member_of(path: str, mount: str = V2) -> dict[str, str]:
    mounts = f"23 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n{mount}\n"
    return {"proc/self/cgroup": f"{path}\n", "proc/self/mountinfo": mounts}


def group_v2(path: str, limit: str, used: int = 0, *, cache: int = 0, high: str = "max") -> dict[str, str]:
    return {
        f"{path}/memory.max": f"{limit}\n",
        f"{path}/memory.high": f"{high}\n",
        f"{path}/memory.current": f"{used}\n",
        f"{path}/memory.stat": f"anon {used - cache}\ninactive_file {cache // 2}\nactive_file {cache // 2}\n",
    }


def group_v1(path: str, limit: int, used: int = 0, *, cache: int = 0) -> dict[str, str]:
    return {
        f"{path}/memory.limit_in_bytes": f"{limit}\n",
        f"{path}/memory.usage_in_bytes": f"{used}\n",
        f"{path}/memory.stat": f"inactive_file 7\ntotal_inactive_file {cache}\ntotal_active_file 0\n",
    }


def process(pid: int, *, pss: int | None, file: int = 0, rss_pages: int = 0) -> dict[str, str]:
    """Sizes in kB, as the kernel writes them; no `pss`: a process whose page tables are closed to us."""
    rollup = f"55a2ef629000-7fff59f22000 ---p 00000000 00:00 0   [rollup]\nRss: 9999 kB\nPss: {pss} kB\nPss_File: {file} kB\n"
    files = {
        f"proc/{pid}/statm": f"99999 {rss_pages} 5 1 0 9 0\n",
        f"proc/{pid}/status": f"Name:\tpython\nRssFile:\t{file} kB\nThreads:\t3\n",
    }
    return files if pss is None else files | {f"proc/{pid}/smaps_rollup": rollup}
