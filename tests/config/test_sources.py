"""What can be wrong with the file that a configuration comes from."""

import errno
import os
from pathlib import Path, PosixPath

import pytest

from cortexd.config import Sources
from cortexd.errors import InvalidConfiguration


class Locked(PosixPath):
    """A file in a directory that is not ours to look into."""

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))


def test_a_file_that_may_not_be_looked_at_is_an_invalid_configuration_in_one_sentence():
    sources = Sources(file=Locked("/locked/cortexd.toml"))
    for read in (sources.read_file, sources.without_store):
        with pytest.raises(InvalidConfiguration) as caught:
            read()
        assert caught.value.message == "/locked/cortexd.toml cannot be read (Permission denied)."


def test_a_file_that_may_not_be_looked_at_is_never_taken_for_none(tmp_path: Path):
    circle = tmp_path / "cortexd.toml"
    circle.symlink_to(circle)
    for file in (circle, tmp_path / ("c" * 300), tmp_path):
        with pytest.raises(InvalidConfiguration, match=r"cannot be read \([A-Za-z ]+\)\.$"):
            Sources(file=file).read_file()


def test_a_file_that_is_not_there_says_nothing(tmp_path: Path):
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    for file in (tmp_path / "cortexd.toml", tmp_path / "file" / "cortexd.toml", tmp_path / "dangling"):
        assert Sources(file=file).read_file() is None
        assert Sources(file=file).without_store().settings.model == ()
