"""What every part of the bench is told."""

from dataclasses import dataclass
from pathlib import Path

from tests.bench import machine


@dataclass(frozen=True)
class Bench:
    """`folder` has the checkpoints; what is measured lies on its disk."""

    folder: Path
    rounds: int

    @property
    def threads(self) -> int:
        """That the daemon computes with."""
        return machine.cores()
