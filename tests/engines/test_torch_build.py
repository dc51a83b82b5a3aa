"""What PyTorch was built for is read, not asked."""

from pathlib import Path

import pytest
import torch

from cortexd.engines import torch_build
from cortexd.engines.torch_build import computes_on_gpus, constants_of


def test_it_is_what_torch_itself_says():
    assert computes_on_gpus() == bool(torch.version.cuda or torch.version.hip)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("cuda: Optional[str] = '13.0'\nhip: Optional[str] = None\n", True),
        ("cuda = None\nhip = '7.0'\n", True),
        ("cuda: Optional[str] = None\n", False),
        ("this is no Python", False),
    ],
)
def test_builds_for_cuda_and_rocm_compute_on_gpus(
    said: str, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name, text in (("torch/__init__.py", ""), ("torch/version.py", said)):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)

    class Spec:
        origin = str(tmp_path / "torch/__init__.py")

    monkeypatch.setattr(torch_build, "find_spec", lambda name: Spec())
    assert computes_on_gpus.__wrapped__() is expected


def test_a_module_that_is_not_there_says_nothing(tmp_path: Path):
    assert constants_of(tmp_path / "version.py") == {}
