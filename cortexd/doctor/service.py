"""The units that start cortexd, where systemd runs."""

import getpass
from collections.abc import Iterator

import msgspec

from cortexd.doctor.finding import Finding, note, ok, problem, warning
from cortexd.doctor.place import Place

_UNITS = ("cortexd.service", "cortexd.socket")
_FIELDS = "LoadState,ActiveState,SubState,Result,UnitFileState,FragmentPath,NeedDaemonReload,ExecMainStatus"
_NO_PROGRAM = "203"  # systemd.exec(5): EXIT_EXEC


class Manager(msgspec.Struct, frozen=True):
    """Of the system, or of this user."""

    check: str
    option: tuple[str, ...]

    def command(self, *words: str) -> str:
        return " ".join(("systemctl", *self.option, *words))


class Unit(msgspec.Struct, frozen=True):
    name: str
    facts: dict[str, str]  # by systemd's names

    @property
    def installed(self) -> bool:
        return bool(self.facts.get("FragmentPath"))

    @property
    def state(self) -> str:
        return self.facts.get("ActiveState", "unknown")

    @property
    def enabled(self) -> bool:
        return self.facts.get("UnitFileState", "").startswith("enabled")


_MANAGERS = (Manager("service", ()), Manager("user service", ("--user",)))


def services(place: Place, user: str | None = None) -> Iterator[Finding]:
    """`user` is who asks, unless it is this process's."""
    if not (place.root / "run/systemd/system").is_dir():
        yield note("service", "systemd does not run here.", "`cortexd serve` starts the daemon.")
        return
    found = {manager: units for manager in _MANAGERS if (units := _installed(place, manager))}
    if not found:
        yield note("service", "No cortexd.service is installed.", "For a daemon at every start: see systemd/README.md.")
    for manager, units in found.items():
        for unit in units:
            yield _finding(manager, unit, units)
            yield from _verified(place, manager, unit)
    if any(manager.option for manager in found):
        yield from linger(place, getpass.getuser() if user is None else user)


def linger(place: Place, user: str) -> Iterator[Finding]:
    """Without it a user's services end with the user's last session, and begin with the first."""
    if not (place.root / "var/lib/systemd/linger" / user).exists():
        yield warning(
            "user service",
            f"It ends when {user} logs out, and does not start with the machine.",
            "`loginctl enable-linger`.",
        )


def _installed(place: Place, manager: Manager) -> list[Unit]:
    units: list[Unit] = []
    for name in _UNITS:
        answer = place.ask(("systemctl", *manager.option, "show", name, f"--property={_FIELDS}"))
        if answer is None or answer.code:  # a user without a manager of their own
            continue
        lines = (line.partition("=") for line in answer.output.splitlines())
        units.append(Unit(name, {key: value for key, _, value in lines}))
    return [unit for unit in units if unit.installed]


def _finding(manager: Manager, unit: Unit, units: list[Unit]) -> Finding:
    facts, name = unit.facts, unit.name
    says = f"{name} is {facts.get('UnitFileState') or 'there'} and {unit.state} ({facts.get('SubState')})."
    if unit.state == "failed":
        return problem(manager.check, f"{name} has failed ({facts.get('Result')}).", _how_to_heal(manager, unit))
    if facts.get("LoadState") != "loaded":
        return problem(
            manager.check,
            f"{name} cannot be read by systemd ({facts.get('LoadState')}).",
            f"Correct {facts.get('FragmentPath')}.",
        )
    if facts.get("NeedDaemonReload") == "yes":
        return warning(manager.check, f"{name} has changed on the disk.", f"`{manager.command('daemon-reload')}`.")
    waits = any(other.name.endswith(".socket") and other.state == "active" for other in units)
    if unit.state == "inactive" and not waits:
        verb = "start" if unit.enabled else "enable --now"
        return note(manager.check, says, f"`{manager.command(verb, name)}`.")
    return ok(manager.check, says)


def _how_to_heal(manager: Manager, unit: Unit) -> str:
    log = " ".join(("journalctl", *manager.option, "-u", unit.name, "-n", "50"))
    if unit.facts.get("ExecMainStatus") == _NO_PROGRAM:
        return "Its program is not there for it: a Python in /root or /home is hidden from it (systemd/README.md)."
    return f"`{log}` says why; then `{manager.command('restart', unit.name)}`."


def _verified(place: Place, manager: Manager, unit: Unit) -> Iterator[Finding]:
    answer = place.ask(("systemd-analyze", *manager.option, "verify", "--man=no", unit.facts["FragmentPath"]))
    said = answer.output + answer.errors if answer is not None else ""
    ours = [line for line in said.splitlines() if "cortexd" in line]  # it looks at what the unit asks for, too
    if ours:
        more = f" (and {len(ours) - 1} more)" if len(ours) > 1 else ""
        yield warning(
            manager.check,
            f"systemd-analyze finds fault with {unit.name}: {ours[0].rstrip('.')}{more}.",
            f"Correct {unit.facts['FragmentPath']}, or a drop-in beside it.",
        )
