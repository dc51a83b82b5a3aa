"""Secrets: the document says where one is, never what it is."""

from collections.abc import Mapping
from pathlib import Path

import msgspec

from cortexd.errors import InvalidConfiguration

_MOST = 64 * 1024  # bytes: no key is longer, and /dev/zero has no end


class Secret(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One of `{ credential = "name" }`, given by the service manager, `{ file = "path" }`, `{ environment = "NAME" }`."""

    credential: str | None = None
    file: str | None = None
    environment: str | None = None

    def __post_init__(self) -> None:
        given = [place for place in (self.credential, self.file, self.environment) if place is not None]
        if len(given) != 1 or not given[0] or "\0" in given[0]:
            raise ValueError("name exactly one place")
        if self.credential is not None and (self.credential in (".", "..") or "/" in self.credential):
            raise ValueError("a credential has a name, not a path")

    def read(self, environment: Mapping[str, str]) -> str:
        """The secret as it is now, without the white space around it. Raises InvalidConfiguration, which never shows it."""
        if self.environment is not None:
            return _present(environment.get(self.environment), f"the variable {self.environment}")
        if self.credential is None:
            assert self.file is not None
            return _of_file(Path(self.file).expanduser(), f"the file {self.file}")
        directory = environment.get("CREDENTIALS_DIRECTORY")
        if directory is None:
            raise InvalidConfiguration(
                f"The credential {self.credential} is not there: the service manager gives none; "
                f"add LoadCredential={self.credential}:PATH to the unit."
            )
        return _of_file(Path(directory) / self.credential, f"the credential {self.credential}")


def _of_file(file: Path, what: str) -> str:
    try:
        with file.open("rb") as opened:
            content = opened.read(_MOST + 1)
    except OSError as error:
        raise InvalidConfiguration(f"A secret cannot be read from {what} ({error.strerror}).") from error
    if len(content) > _MOST:
        raise InvalidConfiguration(f"A secret cannot be read from {what}: it is longer than any secret.")
    try:
        return _present(content.decode(), what)
    except UnicodeDecodeError:
        # `from None`: the error that it would come from shows the content.
        raise InvalidConfiguration(f"A secret cannot be read from {what}: it is not text.") from None


def _present(found: str | None, what: str) -> str:
    if not (secret := (found or "").strip()):
        raise InvalidConfiguration(f"A secret cannot be read from {what}: it is {'empty' if found else 'not set'}.")
    return secret
