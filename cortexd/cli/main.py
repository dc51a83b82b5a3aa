"""The `cortexd` command: finds its subcommands by name and turns errors into one sentence and an exit code."""

import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from cortexd import __version__
from cortexd.cli.lazy import LazyGroup
from cortexd.errors import (
    CannotFit,
    Conflict,
    CortexdError,
    DaemonUnreachable,
    InvalidConfiguration,
    PreconditionRequired,
    QueueFull,
    StaleVersion,
    UnknownModel,
    UnknownSession,
    UnknownState,
    UnknownVersion,
)

_COMMANDS = {  # imported when used: `cortexd ps` must not pay for what `cortexd serve` needs
    "serve": "cortexd.cli.serve:serve",
    "run": "cortexd.cli.run:run",
    "list": "cortexd.cli.models:list_models",
    "ps": "cortexd.cli.ps:ps",
    "load": "cortexd.cli.load:load",
    "unload": "cortexd.cli.residency:unload",
    "park": "cortexd.cli.residency:park",
    "pin": "cortexd.cli.residency:pin",
    "unpin": "cortexd.cli.residency:unpin",
    "why": "cortexd.cli.why:why",
    "plan": "cortexd.cli.plan:plan",
    "memory": "cortexd.cli.memory:memory",
    "events": "cortexd.cli.events:events",
    "simulate": "cortexd.cli.simulate:simulate",
    "config": "cortexd.cli.config:config_group",
    "state": "cortexd.cli.state:state_group",
    "session": "cortexd.cli.session:session_group",
    "verify": "cortexd.cli.verify:verify",
    "warmup": "cortexd.cli.warmup:warmup",
    "doctor": "cortexd.cli.doctor:doctor",
}
_EXIT_CODES: dict[type[CortexdError], int] = {
    InvalidConfiguration: 2,
    DaemonUnreachable: 3,
    UnknownModel: 4,
    UnknownSession: 4,
    UnknownState: 4,
    UnknownVersion: 4,
    QueueFull: 5,
    Conflict: 5,
    StaleVersion: 5,
    PreconditionRequired: 5,
    CannotFit: 5,
}
_INTERRUPTED = 130


@click.group(cls=LazyGroup, places=_COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "--version", message="cortexd %(version)s")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def cli(debug: bool) -> None:
    """Models that are there when they are asked for.

    `cortexd serve` starts the daemon; any OpenAI client may then name any model of `cortexd list`.
    """
    if debug:
        os.environ["CORTEXD_DEBUG"] = "1"


def run(arguments: Sequence[str] | None = None) -> None:
    """The console script; `arguments` are those of the process unless given."""
    try:
        code: Any = cli.main(arguments, standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(_INTERRUPTED)
    except CortexdError as error:
        if os.environ.get("CORTEXD_DEBUG"):
            raise
        click.echo(f"cortexd: {error.message}", err=True)
        sys.exit(next((code for kind, code in _EXIT_CODES.items() if isinstance(error, kind)), 1))
