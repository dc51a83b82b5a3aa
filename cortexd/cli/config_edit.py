"""`cortexd config edit`: the document in force in an editor."""

import os
import tempfile
from pathlib import Path
from typing import Any

import click

from cortexd.cli.options import host_option
from cortexd.cli.proposing import Terms, carry_out, confirm_within_option, terms_options
from cortexd.cli.remote_configuration import CONFIG, TOML, InForce, Proposal, RemoteConfiguration
from cortexd.errors import BadRequest, InvalidConfiguration

_HEAD = """\
# The configuration in force{as_version}. What you save here is checked and shown to you before anything changes.
# A key that is taken away is at its default again. Save it as it is, or save nothing, to change nothing.

"""


@click.command()
@confirm_within_option
@terms_options
@host_option
def edit(address: str | None, **terms: Any) -> None:
    """Change the configuration in force in $VISUAL or $EDITOR.

    What you write is never lost: where it does not come into force, its file is named.
    """
    agreed = Terms(**terms)
    agreed.require_somebody()
    remote = RemoteConfiguration(address)
    response = remote.fetch(CONFIG, format="toml")
    tag = response.headers["etag"]
    version = int(tag.removeprefix('"v').partition("-")[0]) or None
    text = _HEAD.format(as_version="" if version is None else f" as version {version}") + response.text
    descriptor, name = tempfile.mkstemp(prefix="cortexd-", suffix=".toml")
    os.close(descriptor)
    file = Path(name)
    file.write_text(text, encoding="utf-8")
    done = False
    try:
        done = _edited(remote, file, InForce(version, tag), agreed)
    finally:
        if done or file.read_bytes() == text.encode():
            file.unlink()
        else:
            click.echo(f"What you wrote is in {file}.", err=True)


def _edited(remote: RemoteConfiguration, file: Path, in_force: InForce, terms: Terms) -> bool:
    """Whether the text is of no use any more."""
    before = file.read_bytes()
    while True:
        click.edit(filename=str(file))
        content = file.read_bytes()
        if content == before or not _says_something(content):
            click.echo("Nothing was changed.", err=True)
            return True
        proposal = Proposal(method="PUT", path=CONFIG, content=content, media_type=TOML)
        try:
            return carry_out(remote, proposal, in_force, terms)
        except (InvalidConfiguration, BadRequest) as error:
            if terms.yes or terms.dry_run:
                raise
            click.echo(error.message, err=True)
            if not click.confirm("Edit it again?", default=True, err=True):
                raise


def _says_something(content: bytes) -> bool:
    return any(line.strip() and not line.lstrip().startswith(b"#") for line in content.splitlines())
