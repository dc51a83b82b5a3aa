"""`[memory]` is checked when it is read, not when the first model is loaded."""

from pathlib import Path

import pytest

from cortexd.config import Memory, load_settings
from cortexd.errors import InvalidConfiguration


def load(text: str, tmp_path: Path, *overrides: str) -> Memory:
    file = tmp_path / "cortexd.toml"
    file.write_text(text)
    return load_settings(file, {"HOME": "/home/somebody"}, overrides).memory


def test_sizes_may_be_written_as_text_or_as_numbers(tmp_path: Path):
    memory = load("[memory]\ncpu = 12e9\ncuda = '80 %'\nparked = 0\nsample_s = '500ms'", tmp_path)
    assert (memory.cpu, memory.cuda, memory.parked, memory.sample_s) == ("12000000000.0", "80 %", "0", 0.5)


def test_a_flag_gives_a_size_too(tmp_path: Path):
    assert load("[memory]\ncpu = 'auto'", tmp_path, "memory.cpu=4 GB").cpu == "4 GB"


@pytest.mark.parametrize("key", ["cpu", "cuda", "parked"])
@pytest.mark.parametrize("value", ["'lots'", "true", "[]", "-1"])
def test_what_is_no_size_is_refused_by_name(key: str, value: str, tmp_path: Path):
    with pytest.raises(InvalidConfiguration, match=rf"memory\.{key}: "):
        load(f"[memory]\n{key} = {value}", tmp_path)
