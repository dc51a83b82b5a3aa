"""Kernels are told apart by their sources and by what compiles them; what unused ones have left behind goes."""

import os
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from cortexd_kernels import release

DAY = 86400.0


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name in ("plain.py", "fused/wkv.py", "native/library.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("1")
    monkeypatch.setattr(release, "_HERE", tmp_path)
    release.release.cache_clear()
    yield tmp_path
    release.release.cache_clear()


def released() -> str:
    release.release.cache_clear()
    return release.release()


def test_other_sources_are_another_release_but_for_those_of_the_cpu(sources: Path):
    first = released()
    (sources / "native/library.py").write_text("2")
    assert released() == first
    (sources / "fused/wkv.py").write_text("2")
    assert released() != first


def test_so_is_another_triton(sources: Path, monkeypatch: pytest.MonkeyPatch):
    first = released()
    monkeypatch.setattr(
        release, "version", lambda package: {"torch": metadata.version("torch"), "triton": "9"}[package]
    )
    assert released() != first


def test_what_others_have_kept_goes_when_it_was_not_used_for_three_months(tmp_path: Path):
    now = 1e9
    for name, age in ((release.release(), 1000), ("old", 91), ("used", 89)):
        place = tmp_path / "kernels" / name
        (place / "triton").mkdir(parents=True)
        os.utime(place, (now - age * DAY, now - age * DAY))
    release.sweep(tmp_path, now)
    assert sorted(path.name for path in (tmp_path / "kernels").iterdir()) == sorted([release.release(), "used"])


def test_use_is_put_down(tmp_path: Path):
    place = release.folder(tmp_path)
    place.mkdir(parents=True)
    os.utime(place, (0, 0))
    release.used(tmp_path)
    assert place.stat().st_mtime > 0
    release.used(tmp_path / "nowhere")
