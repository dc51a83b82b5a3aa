"""Where a daemon's configuration comes from: its file, the document in force, its environment and its flags."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from cortexd.config.document import Settings
from cortexd.config.layers import Layer, of_document, of_environment, of_file, of_overrides
from cortexd.config.paths import default_paths
from cortexd.config.reading import Reading, reading_of
from cortexd.errors import InvalidConfiguration


class FileReading(msgspec.Struct, frozen=True):
    """What a file says, over the defaults alone."""

    document: Settings
    digest: str  # SHA-256 of what it says: comments and layout do not count


class Sources(msgspec.Struct, frozen=True, kw_only=True):
    """The file is an input: what it says becomes the document in force when it changes. Environment and flags lie over
    that document and never become part of it.
    """

    file: Path | None = None  # read where it is there
    environment: Mapping[str, str] = {}
    overrides: Sequence[str] = ()  # "server.port=8080"

    def read_file(self) -> FileReading | None:
        """None where there is no file. Raises InvalidConfiguration, one sentence a line for all that is wrong."""
        if (layer := self._of_file()) is None:
            return None
        document = reading_of([layer], ()).settings
        return FileReading(document, hashlib.sha256(msgspec.json.encode(layer.document, order="sorted")).hexdigest())

    def over(self, document: Settings, name: str) -> Reading:
        """What is in force where `document` is; `name` is the origin of what it sets. Raises InvalidConfiguration."""
        said: dict[str, Any] = msgspec.to_builtins(document)
        return self._over(of_document(Settings, said, name))

    def without_store(self) -> Reading:
        """What would be in force if nothing were kept. Raises InvalidConfiguration."""
        return self._over(self._of_file() or Layer(document={}))

    def _of_file(self) -> Layer | None:
        if self.file is None:
            return None
        try:
            self.file.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:  # it may be there: what nobody can read is no file that says nothing
            raise InvalidConfiguration(f"{self.file} cannot be read ({error.strerror}).") from error
        return of_file(self.file)

    def _over(self, layer: Layer) -> Reading:
        usual = (str(default_paths(self.environment).data / "models"),)
        above = [of_environment(Settings, self.environment), of_overrides(Settings, self.overrides)]
        return reading_of([layer, *above], usual)
