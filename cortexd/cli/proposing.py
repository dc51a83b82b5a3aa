"""A change of the configuration as the command line makes it: shown, asked about, made, and how to go back said."""

import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import click
import msgspec

from cortexd.cli.output import human_bytes, human_time, print_json
from cortexd.cli.remote_configuration import InForce, Proposal, RemoteConfiguration
from cortexd.store.change import Change
from cortexd.store.change_text import change_lines

C = TypeVar("C", bound=Callable[..., Any])


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What `terms_options` say."""

    reason: str
    dry_run: bool
    yes: bool
    confirm_within: str | None = None

    def require_somebody(self) -> None:
        """To be called before anything is done. Raises UsageError where there would be nobody to ask."""
        if not self.yes and not self.dry_run and not sys.stdin.isatty():
            raise click.UsageError("There is no terminal to ask at; give --yes to make the change without being asked.")


def terms_options(command: C) -> C:
    """Those that every change has."""
    for option in (
        click.option("--yes", "-y", is_flag=True, help="Do not ask."),
        click.option("--dry-run", is_flag=True, help="Show what would change, and change nothing."),
        click.option("--reason", default="", help="Why, for the history."),
    ):
        command = option(command)
    return command


confirm_within_option = click.option(
    "--confirm-within", metavar="DURATION", help="Go back after so long (2m, 90s) unless it is confirmed."
)


def carry_out(
    remote: RemoteConfiguration,
    proposal: Proposal,
    in_force: InForce,
    terms: Terms,
    as_json: bool = False,
    *,
    foretold_by: Proposal | None = None,
) -> bool:
    """Make the change, if whoever is asked agrees; False: it was only to be shown. `foretold_by` is what tells beforehand
    what `proposal` does, where that is something else.

    Raises Exit where somebody does not agree, and what the daemon answers: StaleVersion where another version is in force.
    """
    planned = remote.propose(foretold_by or proposal, in_force.tag, dry_run=True)
    if as_json and terms.dry_run:
        print_json(planned)
        return False
    if not as_json:
        tell_plan(planned)
    if terms.dry_run:
        return False
    if planned["changes"] and not terms.yes and not click.confirm("Make this change?", err=True):
        click.echo("Nothing was changed.", err=True)
        raise click.exceptions.Exit(1)
    outcome = remote.propose(proposal, in_force.tag, reason=terms.reason, confirm_within=terms.confirm_within)
    if as_json:
        print_json(outcome)
    else:
        _tell_outcome(outcome, in_force)
    return True


def tell_plan(planned: dict[str, Any]) -> None:
    """What would change, and what that does to models."""
    for line in change_lines(msgspec.convert(planned["changes"], list[Change])):
        click.echo(line)
    if planned["changes"]:
        for line in plan_lines(planned["plan"]):
            click.echo(f"  {line}")
        for key, origin in planned.get("hidden", {}).items():
            click.echo(f"  {key} has no effect: {origin} wins over it")
    else:
        click.echo("Nothing would change.")


def plan_lines(plan: dict[str, Any]) -> Iterator[str]:
    for restarted in plan["restarted"]:
        yield f"{restarted['model']} is restarted ({', '.join(restarted['keys'])}): {_how(restarted)}"
    for name, words in (
        ("relabelled", "changed while they run"),
        ("added", "added"),
        ("removed", "removed"),
        ("untouched", "untouched"),
    ):
        if plan[name]:
            yield f"{words}: {', '.join(plan[name])}"
    for refused in plan["refused"]:
        yield f"{refused['model']} would not load{_as_before(refused)}: {refused['reason']}"
    for device, held in plan["memory"].items():
        if held["before"] != held["after"]:
            yield f"memory held on {device}: {human_bytes(held['before'])} → {human_bytes(held['after'])}"
    if plan["daemon"]:
        yield f"not before the daemon is started again: {', '.join(plan['daemon'])}"


def _as_before(refused: dict[str, Any]) -> str:
    return ", and goes on as it last did" if refused["falls_back"] else ""


def _how(restarted: dict[str, Any]) -> str:
    if not restarted["loaded"]:
        return "it is not loaded now"
    if restarted["beside"]:
        return "the new worker is loaded beside the old one"
    return "memory is too short for both, so the old worker goes first"


def _tell_outcome(outcome: dict[str, Any], in_force: InForce) -> None:
    version = outcome["version"]
    if not outcome["changed"]:
        click.echo(f"Version {version} is in force, which says just that.")
        return
    click.echo(f"Version {version} is in force.")
    if outcome["revert_at"] is not None:
        until = human_time(outcome["revert_at"])
        click.echo(f"It lasts until {until} unless you confirm it: cortexd config confirm {version}")
    if in_force.version is not None:
        click.echo(f"To go back: cortexd config rollback {in_force.version}")
