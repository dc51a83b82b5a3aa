"""The embedded demo model: weights that are always there, the text they were trained on, and the script that trained them."""

from importlib.resources import files
from pathlib import Path


def path() -> Path:
    """The weights of the demo model, a safetensors file with the official RWKV-7 tensor names."""
    return Path(str(files(__name__))) / "demo.safetensors"
