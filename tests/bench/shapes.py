"""Checkpoints of the official shapes with random weights: speed does not depend on what a model knows."""

from dataclasses import dataclass
from pathlib import Path

import torch

from tests.checkpoint_files import Ranks, tiny_state_dict, write_pth


@dataclass(frozen=True)
class Shape:
    name: str
    layers: int
    heads: int
    vocabulary: int = 65536

    def checkpoint(self, folder: Path) -> Path:
        """Its bf16 `.pth` under `folder`, made when it is not there."""
        path = folder / f"{self.name}.pth"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            state = tiny_state_dict(
                0,
                layers=self.layers,
                heads=self.heads,
                vocabulary=self.vocabulary,
                ranks=Ranks(decay=64, a=64, v=32, gate=128),
                dtype=torch.bfloat16,
            )
            write_pth(path.with_suffix(".part"), state)
            path.with_suffix(".part").rename(path)
        return path

    @property
    def bytes_per_token(self) -> int:
        """What one decoded token must read: every weight but the embedding, once, in bf16."""
        width = 64 * self.heads
        low_ranks = 2 * width * (64 + 64 + 32 + 128)
        return 2 * (self.vocabulary * width + self.layers * (12 * width * width + low_ranks))


SHAPES = [Shape("bench-0.1b", 12, 12), Shape("bench-0.4b", 24, 16)]
