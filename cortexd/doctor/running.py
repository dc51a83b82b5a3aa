"""What the running daemon says of itself, if there is one."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import msgspec

from cortexd import __version__
from cortexd.doctor.finding import Finding, note, ok, problem, some, warning

KINDS = ("degrade", "fail", "crash", "fallback")  # decisions after which something is not as it should be
SINCE = "24h"
_MOST = 5  # of them that are told


class Nobody(msgspec.Struct, frozen=True):
    """Nothing listens at the address, where one was `expected` if somebody named it."""

    address: str
    expected: bool = False


class Stranger(msgspec.Struct, frozen=True):
    """Something listens there, and does not answer as cortexd does."""

    address: str
    why: str


class Answers(msgspec.Struct, frozen=True, kw_only=True):
    """What a daemon has said: as JSON, as its routes give it."""

    address: str
    version: str
    checks: dict[str, str]  # of /readyz
    models: list[dict[str, Any]]  # of /v1/models
    decisions: list[dict[str, Any]] | None  # of these KINDS, the newest first; None: not told to us


Heard = Nobody | Stranger | Answers


def daemon(heard: Heard, in_use: bool = False) -> Iterator[Finding]:
    """`in_use`: somebody holds the lock of this user's database."""
    match heard:
        case Nobody(address, expected):
            yield from _nobody(address, expected, in_use)
        case Stranger(address, why):
            yield problem(
                "daemon",
                f"What listens at {address} does not answer as cortexd does ({why}).",
                "End it, or give cortexd another port: `cortexd serve --port`, or [server] port.",
            )
        case Answers():
            yield _version(heard)
            yield from _readiness(heard)
            yield from _models(heard)
            yield from _decided(heard)


def _nobody(address: str, expected: bool, in_use: bool) -> Iterator[Finding]:
    if in_use:
        yield warning(
            "daemon",
            f"A daemon uses this user's database, but none answers at {address}.",
            "Name its address: --host, CORTEXD_HOST.",
        )
    elif expected:
        yield problem("daemon", f"No daemon answers at {address}.", "Start it there, or name another address.")
    else:
        yield note("daemon", f"No daemon runs at {address}.", "`cortexd serve` starts it.")


def _version(heard: Answers) -> Finding:
    if heard.version != __version__:
        return warning(
            "daemon",
            f"cortexd {heard.version} answers at {heard.address}, and this is {__version__}.",
            "Restart the daemon, or run the command of its installation.",
        )
    return ok("daemon", f"cortexd {heard.version} answers at {heard.address}.")


def _readiness(heard: Answers) -> Iterator[Finding]:
    for part, state in heard.checks.items():
        if state == "ok":
            continue
        advice = (
            "Correct it and save the file: it is read again at once." if part == "configuration" else "Look in its log."
        )
        for line in state.splitlines():
            yield problem("daemon", f"Its {part}: {line.rstrip('.')}.", advice)


def _models(heard: Answers) -> Iterator[Finding]:
    """Those that it offers, which may be others than a daemon would that were started now."""
    sound = [model["id"] for model in heard.models if model["cortexd"]["problem"] is None]
    yield ok("models", f"Whole, and offered by the daemon: {some(sound)}.")
    for model in heard.models:
        name, facts = model["id"], model["cortexd"]
        if facts["problem"] is not None:
            yield warning(
                "models", f"{name} cannot be loaded: {facts['problem']}", "`cortexd verify` looks at all of it."
            )
        elif facts["state"] == "failed":
            why = facts["error"] or "without a reason"
            yield problem(
                "models", f"{name} has failed: {why.rstrip('.')}.", f"`cortexd why {name}` tells how it came to that."
            )


def _decided(heard: Answers) -> Iterator[Finding]:
    """Each thing once, with how often it was so."""
    if heard.decisions is None:
        yield note(
            "journal", "The daemon does not say what it has decided: it is on another machine, or cannot read it."
        )
        return
    failed = {model["id"] for model in heard.models if model["cortexd"]["state"] == "failed"}
    lately: dict[tuple[str, str, str], list[float]] = {}
    for decision in heard.decisions:
        if decision["kind"] != "fail" or decision["model"] not in failed:
            lately.setdefault((decision["model"], decision["kind"], decision["reason"]), []).append(decision["at"])
    for (model, kind, reason), times in list(lately.items())[:_MOST]:
        yield warning(
            "journal", f"{model}, {kind}: {reason.rstrip('.')} ({_when(times)}).", f"`cortexd why {model}` tells more."
        )
    if len(lately) > _MOST:
        yield note(
            "journal", f"{len(lately) - _MOST} more such decisions in the last day.", "`cortexd why MODEL` has them."
        )


def _when(times: Sequence[float]) -> str:
    last = datetime.fromtimestamp(max(times)).strftime("%H:%M")
    return f"at {last}" if len(times) == 1 else f"{len(times)} times in the last day, last at {last}"
