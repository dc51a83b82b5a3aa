"""An alias that leads to several models by weight, and to the same one for the same session."""

import hashlib
import math
from collections.abc import Mapping

import msgspec


class Split(msgspec.Struct, frozen=True):
    """Weighted rendezvous hashing: each target draws a lot for the session, and the highest has it. Another weight changes
    its own target's lots only, so no more sessions move than must, and none between two other targets.
    """

    weights: Mapping[str, float]  # by target, such as "goose@17"; at least one is above 0

    @classmethod
    def of(cls, to: str | Mapping[str, float]) -> "Split":
        """As `[[alias]]` has it in `to`."""
        return cls({to: 1.0} if isinstance(to, str) else dict(to))

    @property
    def targets(self) -> list[str]:
        """Those that get sessions, the heaviest first; of equal ones, that of the older version."""
        return sorted((target for target, weight in self.weights.items() if weight > 0), key=self._rank)

    def choose(self, session: str) -> str:
        """The target of this session."""
        lots = [(_lot(target, session, weight), target) for target, weight in self.weights.items() if weight > 0]
        return max(lots)[1]

    def without(self, target: str) -> "Split":
        """The same with this target's sessions shared out among the others, of which there must be one."""
        return Split({**self.weights, target: 0.0})

    def _rank(self, target: str) -> tuple[float, bool, int, str]:
        model, _, version = target.partition("@")
        return -self.weights[target], not version, int(version or 0), model


def _lot(target: str, session: str, weight: float) -> float:
    """weight / E, where E is exponentially distributed: of several, each is the highest with probability weight / sum.

    The logarithmic method of Schindelhauer and Schomaker, Weighted Distributed Hash Tables (2005).
    """
    digest = hashlib.blake2b(f"{target}\0{session}".encode(), digest_size=8).digest()
    uniform = ((int.from_bytes(digest, "big") >> 12) + 0.5) / 2**52  # exact, and neither 0 nor 1
    return -weight / math.log(uniform)
