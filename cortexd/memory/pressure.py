"""How long programs wait for memory, as Linux tells it since 4.20: docs.kernel.org/accounting/psi.html."""

from pathlib import Path

import msgspec


class Pressure(msgspec.Struct, frozen=True):
    """Percent of the last 10 s in which some program, or all of them, stood still for want of memory."""

    some: float
    full: float


def pressure_in(file: Path) -> Pressure | None:
    """None where the kernel does not measure it."""
    try:
        lines = [line.split() for line in file.read_text().splitlines()]  # some avg10=0.00 avg60=0.00 …
    except OSError:  # not built in, or switched off: then it is opening or reading that fails
        return None
    averages = {words[0]: float(words[1].removeprefix("avg10=")) for words in lines if len(words) > 1}
    return Pressure(averages.get("some", 0.0), averages.get("full", 0.0))
