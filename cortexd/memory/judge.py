"""What a look at the memory means, given the looks before. Pure: no clock, no log, nothing awaited."""

import math
from collections import deque

import msgspec

from cortexd.memory.pressure import Pressure
from cortexd.sizes import size

_LEVELS = (0.80, 0.95)  # of a ceiling, at which people are warned
_SLACK = 0.05  # of a ceiling, below a level before it counts as left
_WORTH_TELLING = 0.01  # of a ceiling, by which foreign use must have changed
_GROWTH, _GROWTH_S = 0.05, 30.0  # of a ceiling, within seconds
_SOME, _FULL = 20.0, 5.0  # percent of the last 10 s
_RELIEF, _RELIEF_S = 0.05, 10.0  # of a ceiling, and seconds until more is asked for


class Standing(msgspec.Struct, frozen=True):
    """One device at one moment, in bytes."""

    ceiling: int
    ours: int
    foreign: int  # what others use of the ceiling

    @property
    def used(self) -> int:
        return self.ours + self.foreign


class Sample(msgspec.Struct, frozen=True):
    """One look; `at` in seconds of a clock that never goes back."""

    at: float
    devices: dict[str, Standing]
    pressure: Pressure | None = None


class Foreign(msgspec.Struct, frozen=True):
    """What others use of a ceiling has changed."""

    device: str
    used: int


class Warn(msgspec.Struct, frozen=True):
    device: str
    used: int
    ceiling: int
    reason: str


class Relieve(msgspec.Struct, frozen=True):
    """So many bytes should be given back."""

    device: str
    excess: int


Finding = Foreign | Warn | Relieve


class _Before:
    """What is remembered of one device."""

    def __init__(self) -> None:
        self.ceiling = 0
        self.told = 0
        self.levels = 0  # of _LEVELS, that are reached and not left
        self.growing = False
        self.history: deque[tuple[float, int]] = deque()  # when, and what others used


class Judge:
    """Remembers enough to say everything once."""

    def __init__(self) -> None:
        self._before: dict[str, _Before] = {}
        self._pressed = False
        self._relieved_at = -math.inf

    def judge(self, sample: Sample) -> list[Finding]:
        found: list[Finding] = []
        for device, now in sample.devices.items():
            before = self._before.setdefault(device, _Before())
            if abs(now.foreign - before.told) > _WORTH_TELLING * now.ceiling:
                before.told = now.foreign
                found.append(Foreign(device, now.foreign))
            reasons = [_fullness(before, now), _growth(before, now, sample.at)]
            found += [Warn(device, now.used, now.ceiling, reason) for reason in reasons if reason]
        if sample.pressure is not None and "cpu" in sample.devices:
            found += self._pressure(sample.pressure, sample.devices["cpu"], sample.at)
        return found

    def _pressure(self, pressure: Pressure, now: Standing, at: float) -> list[Finding]:
        """Only the host has it: a GPU's memory is neither swapped nor taken back."""
        found: list[Finding] = []
        if pressure.some > _SOME or pressure.full > _FULL:
            if not self._pressed:
                reason = (
                    f"programs wait for memory {pressure.some:.0f} % of the time, all of them {pressure.full:.0f} %"
                )
                found.append(Warn("cpu", now.used, now.ceiling, reason))
            self._pressed = True
            if at - self._relieved_at >= _RELIEF_S:
                self._relieved_at = at
                found.append(Relieve("cpu", int(_RELIEF * now.ceiling)))
        elif pressure.some < _SOME / 2 and pressure.full < _FULL / 2:
            self._pressed = False
        return found


def _fullness(before: _Before, now: Standing) -> str:
    reached = sum(now.used >= level * now.ceiling > 0 for level in _LEVELS)
    kept = sum(now.used >= (level - _SLACK) * now.ceiling > 0 for level in _LEVELS)
    risen = reached > before.levels
    before.levels = max(reached, min(before.levels, kept))
    return f"{now.used / now.ceiling:.0%} of the budget are in use" if risen else ""


def _growth(before: _Before, now: Standing, at: float) -> str:
    history = before.history
    if now.ceiling != before.ceiling:  # other programs have not moved, our part has
        before.ceiling = now.ceiling
        history.clear()
    history.append((at, now.foreign))
    while history[0][0] < at - _GROWTH_S:
        history.popleft()
    growth = now.foreign - min(used for _, used in history)
    risen = growth > _GROWTH * now.ceiling and not before.growing
    if risen or growth <= _GROWTH / 2 * now.ceiling:
        before.growing = risen
    return f"other programs have taken {size(growth)} more within {_GROWTH_S:.0f} s" if risen else ""
