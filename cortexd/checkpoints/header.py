"""The header of a checkpoint: which tensors it holds, read without reading one of them."""

import stat
from pathlib import Path
from typing import BinaryIO, Literal

import msgspec

from cortexd.checkpoints.directory import read_directory
from cortexd.checkpoints.problem import damaged, printable, unsupported
from cortexd.checkpoints.pth import read_pth
from cortexd.checkpoints.safetensors import read_safetensors
from cortexd.checkpoints.tensor import TensorHeader

_ZIP = b"PK\x03\x04"
_FOREIGN = {
    b"\x80": "was written by PyTorch before 1.6 or is not a checkpoint, and cannot be read safely; convert it where it "
    "came from with torch.save(torch.load(file, weights_only=True), file)",
    b"GGUF": "is a GGUF file; cortexd reads .pth and .safetensors: use the original checkpoint",
    b"fmgg": "is a file of rwkv.cpp; cortexd reads .pth and .safetensors: use the original checkpoint",
    b"version https://git-lfs": "is only a pointer of Git LFS, not the checkpoint; fetch it with `git lfs pull`",
    b"<": "is a web page, not a checkpoint; download it again with the address of the file itself",
}


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """What a checkpoint says of itself; a Hugging Face directory's `config.json` is in `metadata` as "config.…"."""

    name: str  # of the file or directory, as it may stand in a sentence
    format: Literal["safetensors", "pth"]
    tensors: dict[str, TensorHeader]
    metadata: dict[str, str]


def read_header(path: Path) -> Header:
    """The header of a file or a Hugging Face directory; raises UnsupportedCheckpoint whatever is wrong with it."""
    name = printable(path.name)
    try:
        mode = _mode(path, name)
        if stat.S_ISDIR(mode):
            tensors, metadata = read_directory(path)
            return Header(name=name, format="safetensors", tensors=tensors, metadata=metadata)
        if not stat.S_ISREG(mode):
            raise unsupported(name, "is not a file; give the path of a .pth or .safetensors file")
        with path.open("rb") as file:
            return read_open(file, name)
    except FileNotFoundError:
        raise unsupported(name, "does not exist; check its path") from None
    except OSError as error:
        raise unsupported(name, f"cannot be read ({error.strerror}); check its permissions and the disk") from None


def _mode(path: Path, name: str) -> int:
    try:
        return path.stat().st_mode
    except ValueError:  # a null byte, or what cannot be encoded
        raise unsupported(name, "is not a possible file name; check its path") from None


def read_open(file: BinaryIO, name: str) -> Header:
    """The header of an open file, which is called `name` in what is said of it; raises UnsupportedCheckpoint."""
    start = file.read(32)
    if not start:
        raise damaged(name, "it is empty")
    if start.startswith(_ZIP):
        return Header(name=name, format="pth", tensors=read_pth(file, name), metadata={})
    # The length of a safetensors header may begin with any byte: its brace is asked first.
    if start[8:9] != b"{":
        for magic, what in _FOREIGN.items():
            if start.startswith(magic):
                raise unsupported(name, what)
    tensors, metadata = read_safetensors(file, name)
    return Header(name=name, format="safetensors", tensors=tensors, metadata=metadata)
