"""Checkpoints of the official shapes with random weights: speed does not depend on what a model knows."""

from dataclasses import dataclass
from pathlib import Path

import torch

from tests.checkpoint_files import Ranks, tiny_state_dict, write_pth

LOW_RANKS = Ranks(decay=64, a=64, v=32, gate=128)


@dataclass(frozen=True)
class Shape:
    name: str
    layers: int
    heads: int
    vocabulary: int = 65536

    @property
    def width(self) -> int:
        return 64 * self.heads

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
                ranks=LOW_RANKS,
                dtype=torch.bfloat16,
            )
            write_pth(path.with_suffix(".part"), state)
            path.with_suffix(".part").rename(path)
        return path


SHAPES = [Shape("bench-0.1b", 12, 12), Shape("bench-0.4b", 24, 16)]
