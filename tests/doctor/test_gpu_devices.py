"""GPUs on the bus, their nodes, and who may open them."""

import errno
import grp
import os
from pathlib import Path
from types import SimpleNamespace

from cortexd.doctor.gpu_devices import Graphics, access, devices, graphics, nvml
from tests.doctor.made_up import NOBODY, as_nobody, levels, needs_root, only, place
from tests.memory.fake_nvml import FakeNvml, NVMLError
from tests.memory.trees import write

ANOTHER = 1  # a group that root is not in, nor nobody
NONE = Graphics(0, 0, (), ())
DRIVER = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\nGCC version: 12\n"
OPEN_DRIVER = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.10  Release Build\n"


def card(vendor: str, number: int = 1, kind: str = "0x030200") -> dict[str, str]:
    folder = f"sys/bus/pci/devices/0000:0{number}:00.0"
    return {f"{folder}/vendor": f"{vendor}\n", f"{folder}/class": f"{kind}\n"}


def nodes(*names: str) -> dict[str, str]:
    return {f"dev/{name}": "" for name in names}


NVIDIA = {**card("0x10de"), **nodes("nvidia0", "nvidiactl", "nvidia-uvm"), "proc/driver/nvidia/version": DRIVER}


def found_in(root: Path, **environment: str) -> list[str]:
    where = place(root, **environment)
    return [f"{finding.level}: {finding.says}" for finding in devices(where, graphics(where))]


def test_a_machine_without_any_is_well(tmp_path: Path):
    write(tmp_path, card("0x8086"))
    assert found_in(tmp_path) == ["ok: There is no GPU; the CPU computes."]
    assert not graphics(place(tmp_path))


def test_a_card_without_a_driver_is_a_warning(tmp_path: Path):
    write(tmp_path, card("0x10de") | card("0x10de", 2) | card("0x10de", 3, "0x040300"))
    (line,) = found_in(tmp_path)
    assert line.startswith("warning: NVIDIA cards on the bus: 2;")


def test_a_card_that_only_draws_is_a_note(tmp_path: Path):
    write(tmp_path, card("0x1002"))
    assert found_in(tmp_path)[0].startswith("note: AMD cards on the bus: 1;")


def test_a_driver_says_its_version(tmp_path: Path):
    assert found_in(write(tmp_path, NVIDIA)) == ["ok: 1 of NVIDIA, driver 550.54.15."]
    write(tmp_path, {"proc/driver/nvidia/version": OPEN_DRIVER})
    assert found_in(tmp_path) == ["ok: 1 of NVIDIA, driver 570.86.10."]


def test_without_unified_memory_cuda_does_not_start(tmp_path: Path):
    write(tmp_path, NVIDIA)
    (tmp_path / "dev/nvidia-uvm").unlink()
    assert any(line.startswith("problem: There is no /dev/nvidia-uvm") for line in found_in(tmp_path))


def test_gpus_of_amd_are_counted_by_their_nodes(tmp_path: Path):
    write(tmp_path, card("0x1002") | nodes("kfd", "dri/renderD128", "dri/renderD129"))
    assert found_in(tmp_path) == ["ok: 2 of AMD."]


def test_variables_that_hide_gpus_are_told(tmp_path: Path):
    assert "note: CUDA_VISIBLE_DEVICES='' hides all GPUs." in found_in(write(tmp_path, NVIDIA), CUDA_VISIBLE_DEVICES="")


def test_nodes_that_open_are_well(tmp_path: Path):
    where = place(write(tmp_path, NVIDIA))
    assert only(access(where, graphics(where))).says == "All 3 device nodes can be opened."
    assert not list(access(where, NONE))


def test_a_node_that_does_not_open_is_one_problem_however_many_there_are(tmp_path: Path):
    where = place(write(tmp_path, NVIDIA | nodes("nvidia1")))

    def refuse(node: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    finding = only(access(where, graphics(where), refuse))
    assert (finding.level, "Input/output error" in finding.says) == ("problem", True)


@needs_root
def test_a_node_of_another_group_is_told_with_the_group():
    with as_nobody() as folder:
        os.seteuid(0)
        write(folder, NVIDIA)
        os.chown(folder / "dev/nvidia0", 0, ANOTHER)
        (folder / "dev/nvidia0").chmod(0o660)
        (folder / "dev/nvidiactl").chmod(0o666)
        (folder / "dev/nvidia-uvm").chmod(0o666)
        os.seteuid(NOBODY)
        where = place(folder)
        finding = only(access(where, graphics(where)))
    assert (finding.level, "65534" in finding.says) == ("problem", True)
    assert finding.advice == f"`usermod -aG {grp.getgrgid(ANOTHER).gr_name} USER`, and log in again."


def test_what_the_modes_allow_a_control_group_forbids(tmp_path: Path):
    where = place(write(tmp_path, NVIDIA))

    def refuse(node: Path) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    assert "DeviceAllow=" in only(access(where, graphics(where), refuse)).advice


class Nvml(FakeNvml):
    def nvmlInit(self) -> None:
        pass

    def nvmlDeviceGetName(self, handle: int) -> str:
        return "NVIDIA H100"


def test_the_drivers_library_tells_of_each_gpu():
    assert levels(nvml(Nvml((80 * 10**9, 79 * 10**9, {}), None))) == ["ok", "problem"]
    assert next(iter(nvml(Nvml((80 * 10**9, 79 * 10**9, {}))))).says == (
        "cuda:0 is NVIDIA H100, 80.0 GB, of which 79.0 GB are free."
    )


def test_a_driver_that_was_updated_under_its_library_is_a_problem():
    def fail() -> None:
        raise NVMLError("Driver/library version mismatch")

    finding = only(nvml(SimpleNamespace(NVMLError=NVMLError, nvmlInit=fail)))
    assert (finding.level, "mismatch" in finding.says) == ("problem", True)
