"""State-tuned initial states for tests, and libraries that hold some."""

import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from cortexd.state_library import StateLibrary
from cortexd.store.states import States
from tests.store.stores import opened


def tuned_state(
    seed: int = 0, *, layers: int = 2, heads: int = 2, size: int = 64, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """Random numbers under the names that RWKV's trainers give them, `[H, V, K]` for each layer."""
    draw = torch.Generator().manual_seed(seed)
    numbers = torch.randn(layers, heads, size, size, generator=draw).to(dtype)
    return {f"blocks.{layer}.att.time_state": numbers[layer].clone() for layer in range(layers)}


def write_state(path: Path, state: dict[str, Tensor]) -> Path:
    """As the format that the ending of `path` says."""
    if path.suffix == ".pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    return path


@contextlib.asynccontextmanager
async def library(data: Path) -> AsyncGenerator[StateLibrary]:
    """One over a real database, as a daemon with this data directory has it."""
    async with opened(data / "cortexd.db") as database:
        states = StateLibrary(States(database), data / "states")
        await states.start()
        yield states
