"""What is installed, read from files that nobody imports."""

import sys
from pathlib import Path

from cortexd.doctor.installation import TorchBuild, cortexd, python, system, torch, torch_build, triton
from tests.doctor.made_up import place
from tests.memory.trees import write

VERSION = """from typing import Optional
__all__ = ['__version__', 'cuda']
__version__ = '2.13.0'
debug = False
cuda: Optional[str] = {cuda}
hip: Optional[str] = {hip}
"""


def build_of(root: Path, cuda: str | None = None, hip: str | None = None) -> TorchBuild | None:
    write(root, {"packages/torch/version.py": VERSION.format(cuda=repr(cuda), hip=repr(hip))})
    return torch_build(place(root))


def test_a_build_says_what_it_is_for(tmp_path: Path):
    assert str(build_of(tmp_path)) == "the CPU alone"
    assert str(build_of(tmp_path, cuda="13.0")) == "CUDA 13.0"
    assert str(build_of(tmp_path, hip="7.1.25")) == "ROCm 7.1.25"
    assert torch(place(tmp_path)).says == "PyTorch 2.13.0, built for ROCm 7.1.25."


def test_without_pytorch_there_is_a_problem_and_the_way_out(tmp_path: Path):
    found = torch(place(tmp_path))
    assert (found.level, "pip install torch" in found.advice) == ("problem", True)


def test_a_version_file_that_cannot_be_understood_is_no_crash(tmp_path: Path):
    write(tmp_path, {"packages/torch/version.py": "<<<<<<< ours\n", "packages/triton/__init__.py": "x = 1\n"})
    assert torch(place(tmp_path)).level == "ok"
    assert triton(place(tmp_path)).level == "note"


def test_triton_says_its_version_and_may_be_absent(tmp_path: Path):
    assert "only a GPU" in triton(place(tmp_path)).says
    write(tmp_path, {"packages/triton/__init__.py": '"""Triton."""\n__version__ = "3.7.1"\nfrom . import nothing\n'})
    assert triton(place(tmp_path)).says == "Triton 3.7.1."


def test_this_installation_is_told_without_importing_pytorch():
    before = set(sys.modules)
    assert (system().level, python().level, cortexd().level) == ("ok", "ok", "ok")
    assert "torch" not in set(sys.modules) - before


def test_an_old_python_and_another_system_are_problems():
    assert python((3, 10, 4)).level == "problem"
    assert system("darwin").level == "problem"
