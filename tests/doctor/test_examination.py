"""All checks together, on machines that are made up."""

from collections.abc import Iterator
from pathlib import Path

from cortexd.doctor.examination import examine, guarded
from cortexd.doctor.finding import Finding, ok
from cortexd.doctor.running import Nobody
from cortexd.memory.nvidia import Gpus
from tests.doctor.made_up import levels, place
from tests.memory.trees import GB, meminfo, write


def found_in(root: Path) -> dict[str, list[Finding]]:
    write(root, meminfo(64 * GB, 50 * GB))
    found: dict[str, list[Finding]] = {}
    for finding in examine(place(root), Nobody("http://here"), Gpus(None)):
        found.setdefault(finding.check, []).append(finding)
    return found


def test_every_finding_that_is_not_ok_says_what_to_do_and_each_is_a_sentence(tmp_path: Path):
    write(tmp_path, {"home/.config/cortexd/cortexd.toml": "[server]\nprot = 1\n"})
    everything = [finding for findings in found_in(tmp_path).values() for finding in findings]
    assert all(finding.says.endswith((".", "?")) for finding in everything)
    assert all(finding.advice for finding in everything if finding.level in ("warning", "problem"))


def test_nothing_is_missing(tmp_path: Path):
    assert found_in(tmp_path).keys() >= {
        *("system", "python", "cortexd", "torch", "triton", "cpu kernels", "gpu"),
        *("configuration", "model directory", "models", "data directory", "cache directory", "runtime directory"),
        *(
            "memory",
            "swap",
            "memory budget",
            "sqlite",
            "database",
            "service",
            "open files",
            "cores",
            "oom score",
            "daemon",
        ),
    }


def test_where_there_is_a_gpu_all_around_it_is_looked_at(tmp_path: Path):
    write(tmp_path, {"dev/nvidia0": "", "packages/torch/version.py": "__version__ = '2.13'\ncuda: str = '13.0'\n"})
    assert found_in(tmp_path).keys() >= {"gpu", "gpu access", "nvml", "gpu trial", "gpu kernels"}


def test_a_memory_budget_that_is_too_small_for_the_demo_model_is_told(tmp_path: Path):
    write(tmp_path, {"home/.config/cortexd/cortexd.toml": '[memory]\ncpu = "50 MB"\n'})
    assert levels(found_in(tmp_path)["memory budget"]) == ["ok", "warning"]


def test_a_check_that_fails_itself_is_a_warning_and_keeps_what_it_had_found():
    def check() -> Iterator[Finding]:
        yield ok("memory", "So far.")
        raise KeyError("MemTotal")

    assert levels(guarded("memory", check)) == ["ok", "warning"]
    assert "KeyError: 'MemTotal'" in guarded("memory", check)[1].says


def test_a_machine_without_any_of_the_files_is_no_crash(tmp_path: Path):
    found = list(examine(place(tmp_path), Nobody("http://here"), Gpus(None)))
    assert [finding.check for finding in found if "could not be looked at" in finding.says] == ["models", "memory"]
