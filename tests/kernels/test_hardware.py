"""A device is known by its name, by what its kernels are compiled for, and by its driver."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from cortexd_kernels import hardware
from cortexd_kernels.hardware import Hardware, hardware_of


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(hardware, "_DRIVERS", (str(tmp_path / "none"), str(tmp_path / "version")))
    monkeypatch.setattr(hardware.platform, "release", lambda: "6.12")
    (tmp_path / "version").write_text("570.86.15\n")
    return tmp_path / "version"


@pytest.mark.parametrize(("hip", "capability"), [(None, "9.0"), ("6.4", "gfx942:sramecc+")])
@pytest.mark.usefixtures("driver")
def test_a_gpu_is_told_as_its_maker_tells_it(monkeypatch: pytest.MonkeyPatch, hip: str | None, capability: str):
    properties = SimpleNamespace(name="a GPU", major=9, minor=0, gcnArchName="gfx942:sramecc+" if hip else "a GPU")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.version, "hip", hip)
    assert hardware_of(torch.device("cuda:0")) == Hardware("a GPU", capability, "570.86.15")


def test_a_driver_that_is_part_of_the_kernel_has_its_version(driver: Path, monkeypatch: pytest.MonkeyPatch):
    driver.unlink()
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(name="a", major=8, minor=6))
    monkeypatch.setattr(torch.version, "hip", None)
    assert hardware_of(torch.device("cuda:0")) == Hardware("a", "8.6", "6.12")


def test_names_of_files_differ_where_anything_does():
    devices = [Hardware("a", "b", "c"), Hardware("a", "b", "d"), Hardware("a", "d", "c"), Hardware("d", "b", "c")]
    assert len({device.key for device in devices}) == 4
