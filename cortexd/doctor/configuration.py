"""What a daemon that is started now would be told, and the models it would offer."""

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from cortexd.catalogue.catalogue import Catalogue
from cortexd.config import Settings, load_settings, usual_file
from cortexd.doctor.finding import Finding, missed, note, ok, problem, some, warning
from cortexd.doctor.place import Place
from cortexd.errors import InvalidConfiguration

_CHECK = "configuration"
_OF_THE_SERVICE = "etc/cortexd/cortexd.toml"


def settings_of(place: Place) -> Settings:
    """What is in force; without what is not valid."""
    with contextlib.suppress(InvalidConfiguration):
        return load_settings(_file(place), place.environment, ())
    with contextlib.suppress(InvalidConfiguration):
        return load_settings(None, place.environment, ())
    plain = {name: value for name, value in place.environment.items() if not name.startswith("CORTEXD_")}
    return load_settings(None, plain, ())


def configuration(place: Place) -> Iterator[Finding]:
    try:
        file = _file(place)
    except InvalidConfiguration as error:
        yield problem(_CHECK, error.message, "Set HOME or XDG_CONFIG_HOME to a folder of this user's.")
        return
    if file is None:
        yield ok(_CHECK, f"There is no {place.paths.config / 'cortexd.toml'}; the defaults are in force.")
    else:
        yield from _judged(file)
    in_file = _wrong(file, {})
    for sentence in _wrong(file, place.environment):
        if sentence not in in_file:
            yield problem(_CHECK, sentence, "Correct the variable, or unset it.")
    service = place.root / _OF_THE_SERVICE
    if os.access(service, os.R_OK, effective_ids=True) and service != file:
        yield from _judged(service)


def model_directories(settings: Settings, usual: Path) -> Iterator[Finding]:
    """`usual` is the one that is looked into where none is named."""
    for written in settings.models.directories:
        yield _directory(Path(written).expanduser().absolute(), usual / "models")


def models(catalogue: Catalogue, wrong: Iterable[str], gpu: bool) -> Iterator[Finding]:
    """`wrong` is what else is wrong with them, a sentence each; `gpu`: there is one."""
    specs = catalogue.specs()
    sound = [spec.name for spec in specs if spec.problem is None]
    yield ok("models", f"Whole, and there to be asked for: {some(sound)}.")
    for spec in specs:
        if spec.problem is not None:
            says, advice = f"{spec.name} cannot be loaded: {spec.problem}", "`cortexd verify` looks at all of it."
            yield missed(spec)("models", says, advice)
        elif "cuda" in spec.strategy and not gpu:
            yield warning(
                "models",
                f"{spec.name} is to be computed by {spec.strategy!r}, and there is no GPU: the CPU computes it.",
                "See what is said of the GPU, or give it another strategy.",
            )
    for sentence in wrong:
        yield problem("models", sentence, "`cortexd config set` or the configuration file puts it right.")


def _judged(file: Path) -> Iterator[Finding]:
    """By the file alone, as `cortexd config check` does."""
    wrong = _wrong(file, {})
    for sentence in wrong:
        yield problem(_CHECK, sentence, f"Correct it; `cortexd config check {file}` looks again.")
    if not wrong:
        yield ok(_CHECK, f"{file} is valid.")


def _wrong(file: Path | None, environment: Mapping[str, str]) -> list[str]:
    """One sentence for each thing."""
    try:
        load_settings(file, environment, ())
    except InvalidConfiguration as error:
        return error.message.splitlines()
    return []


def _file(place: Place) -> Path | None:
    return place.file or usual_file(place.environment)


def _directory(path: Path, usual: Path) -> Finding:
    try:
        if not path.exists():
            says = f"{path} is not there."
            if path == usual:
                return note("model directory", says, "Make it, and put RWKV-7 checkpoints there.")
            return warning("model directory", says, "Make it, or correct [models] directories.")
    except PermissionError:
        pass
    if not os.access(path, os.R_OK | os.X_OK, effective_ids=True):
        return problem(
            "model directory",
            f"{path} may not be read by user {os.geteuid()}.",
            f"`chmod a+rx {path}` and those above it, or run cortexd as another user.",
        )
    if not path.is_dir():
        return problem("model directory", f"{path} is no directory.", "Correct [models] directories.")
    return ok("model directory", f"{path}.")
