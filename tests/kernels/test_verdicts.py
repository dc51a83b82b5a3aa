"""What was found out about a device is believed for just that device, driver and release."""

from pathlib import Path

import msgspec
import pytest

from cortexd_kernels import release
from cortexd_kernels.hardware import Hardware
from cortexd_kernels.verdicts import Verdict, Verdicts, kept_verdicts

HERE = Hardware("NVIDIA H200", "9.0", "570.86.15")
GOOD = Verdict("NVIDIA H200", "fp16", "", 1e9)
BAD = Verdict("NVIDIA H200", "bf16", "wkv of 1 row computes wrongly", 1e9)


def files(cache: Path) -> list[Path]:
    return sorted(release.folder(cache).glob("*.verdict.json"))


def test_a_verdict_is_kept_for_its_dtype(tmp_path: Path):
    verdicts = Verdicts(tmp_path)
    assert verdicts.find(HERE, "fp16") is None
    verdicts.keep(HERE, GOOD)
    verdicts.keep(HERE, BAD)
    assert [Verdicts(tmp_path).find(HERE, dtype) for dtype in ("fp16", "bf16", "fp32")] == [GOOD, BAD, None]
    assert kept_verdicts(tmp_path) == [BAD, GOOD]


@pytest.mark.parametrize("field", Hardware.__struct_fields__)
def test_it_does_not_hold_for_another_device_or_driver(tmp_path: Path, field: str):
    Verdicts(tmp_path).keep(HERE, GOOD)
    other = msgspec.structs.replace(HERE, **{field: "another"})
    assert Verdicts(tmp_path).find(other, "fp16") is None
    (path,) = files(tmp_path)
    path.rename(path.with_name(f"{other.key}-fp16.verdict.json"))  # nor does its file, wherever it came from
    assert Verdicts(tmp_path).find(other, "fp16") is None


@pytest.mark.parametrize("damage", [b"", b"{}", b"\xff\x00", b'{"hardware": {}, "verdict": {"problem": ""}}'])
def test_a_damaged_file_is_no_verdict(tmp_path: Path, damage: bytes):
    Verdicts(tmp_path).keep(HERE, GOOD)
    files(tmp_path)[0].write_bytes(damage)
    assert Verdicts(tmp_path).find(HERE, "fp16") is None
    assert kept_verdicts(tmp_path) == []


def test_of_two_drivers_the_newer_verdict_is_told(tmp_path: Path):
    verdicts = Verdicts(tmp_path)
    verdicts.keep(msgspec.structs.replace(HERE, driver="560"), msgspec.structs.replace(GOOD, when=2e9, problem="bad"))
    verdicts.keep(HERE, GOOD)
    assert [verdict.problem for verdict in kept_verdicts(tmp_path)] == ["bad"]


def test_those_of_other_kernels_are_not_told(tmp_path: Path):
    Verdicts(tmp_path).keep(HERE, GOOD)
    release.folder(tmp_path).rename(tmp_path / "kernels" / "0123456789abcdef")
    assert kept_verdicts(tmp_path) == []


@pytest.mark.parametrize(("age", "stands"), [(0.0, True), (3599.0, True), (3601.0, False), (-10.0, False)])
def test_what_may_pass_holds_for_an_hour_by_a_clock_that_goes_forward(age: float, stands: bool):
    passing = msgspec.structs.replace(BAD, passing=True)
    assert passing.stands(passing.when + age) is stands
    assert BAD.stands(BAD.when + age)
