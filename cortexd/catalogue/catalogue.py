"""All models that a client may name. A name is a key in here, never a path."""

import difflib
from pathlib import Path
from typing import TypeVar

import msgspec

from cortexd import demo
from cortexd.catalogue.scan import Found, Scanner
from cortexd.catalogue.spec import Limits, ModelSpec, SamplingDefaults, Source
from cortexd.config import Model, Settings
from cortexd.errors import UnknownModel

T = TypeVar("T", bound=msgspec.Struct)

_NEAREST = 3


class Catalogue:
    """Configured models, what was found in the models directories, and the embedded one, in this order of precedence."""

    def __init__(self, settings: Settings) -> None:
        self._directories = [Path(directory).expanduser().absolute() for directory in settings.models.directories]
        self._configured = settings.model
        self._embedded = settings.models.embedded
        self._scanner = Scanner()
        self._specs: dict[str, ModelSpec] = {}
        self._names: dict[str, str] = {}  # lower case name or alias → name

    def specs(self) -> list[ModelSpec]:
        return list(self._specs.values())

    def resolve(self, name: str) -> ModelSpec:
        """The model of this name or alias, in whatever case; raises UnknownModel naming the nearest."""
        key = name if name in self._specs else self._names.get(name.lower())
        if key is not None:
            return self._specs[key]
        nearest = difflib.get_close_matches(name.lower(), self._names, n=_NEAREST, cutoff=0.5)
        names = ", ".join(dict.fromkeys(self._names[near] for near in nearest)) or ", ".join(
            list(self._specs)[:_NEAREST]
        )
        shown = name if len(name) <= 80 else f"{name[:80]}…"
        hint = f"the nearest there is: {names}" if names else "there is none"
        raise UnknownModel(
            f"There is no model {shown!r}; {hint}. Models are files in a models directory.", param="model"
        )

    def refresh(self) -> None:
        """Look again. Blocks on the disk, hence not for the event loop; cheap where nothing has changed."""
        specs: dict[str, ModelSpec] = {}
        if self._embedded and (found := self._scanner.examine(Path(demo.path()))) is not None:
            specs["demo"] = msgspec.structs.replace(_spec(found, "embedded"), name="demo", strategy="cpu fp32")
        for found in self._scanner.look(self._directories):
            specs[found.name] = _spec(found, "directory")
        for model in self._configured:
            specs[model.name] = self._from_configuration(model, specs.get(model.name))
        names: dict[str, str] = {}
        for name, spec in sorted(specs.items()):
            names.setdefault(name.lower(), name)
            for alias in spec.aliases:
                names.setdefault(alias.lower(), name)
        # Two plain assignments: a reader on another thread sees the old or the new, and resolves names it was told of.
        self._names, self._specs = names, {name: specs[name] for name in sorted(specs)}

    def _from_configuration(self, model: Model, found: ModelSpec | None) -> ModelSpec:
        """What was configured, over what was found under the same name or at the configured path."""
        base = found or ModelSpec(name=model.name, source="file")
        if model.path is not None:
            base = self._at(model.path)
        elif found is None and model.engine == "rwkv":
            base = msgspec.structs.replace(base, problem=f"No models directory holds a checkpoint called {model.name}.")
        given = {
            "strategy": model.strategy,
            "template": model.template,
            "keep_alive": model.keep_alive,
            "max_concurrency": model.max_concurrency,
        }
        return msgspec.structs.replace(
            base,
            name=model.name,
            source="file",
            engine=model.engine,
            threads=model.threads,
            aliases=model.aliases,
            sampling=_overlay(SamplingDefaults(), msgspec.structs.asdict(model.sampling)),
            limits=_overlay(Limits(), msgspec.structs.asdict(model.limits)),
            **{name: value for name, value in given.items() if value is not None},
        )

    def _at(self, path: str) -> ModelSpec:
        written = Path(path).expanduser()
        places = [written] if written.is_absolute() else [directory / written for directory in self._directories]
        for place in places:
            if (found := self._scanner.examine(place)) is not None:
                return _spec(found, "file")
        where = " or ".join(str(place.parent) for place in places) or "any models directory"
        return ModelSpec(
            name="",
            source="file",
            path=str(places[0]) if places else path,
            problem=f"{written.name} is not in {where}.",
        )


def _spec(found: Found, source: Source) -> ModelSpec:
    return ModelSpec(
        name=found.name,
        source=source,
        path=str(found.path),
        weights=found.weights,
        size=found.size,
        created=found.modified,
        architecture=found.architecture,
        problem=found.problem,
    )


def _overlay(base: T, given: dict[str, object]) -> T:
    return msgspec.structs.replace(base, **{name: value for name, value in given.items() if value is not None})
