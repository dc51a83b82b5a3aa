"""All models that a client may name. A name is a key in here, never a path."""

import difflib
from collections.abc import Container, Mapping
from pathlib import Path
from typing import TypeVar

import msgspec

from cortexd import demo
from cortexd.catalogue.scan import Found, Scanner
from cortexd.catalogue.spec import Limits, ModelSpec, SamplingDefaults, Source
from cortexd.catalogue.split import Split
from cortexd.config import Model, Settings, effective
from cortexd.errors import UnknownModel

T = TypeVar("T", bound=msgspec.Struct)

_NEAREST = 3
_MOST_EDITIONS = 32  # that are offered only because clients have asked for them
_MOST_VERSIONS = 4  # of which the whole configuration is remembered


class Edition(msgspec.Struct, frozen=True):
    """`goose@17`: a model as an earlier version of the configuration had it."""

    model: str
    version: int

    @classmethod
    def of(cls, name: str) -> "Edition | None":
        """None for a name that is no such one."""
        model, at, version = name.rpartition("@")
        if not (
            at and model and version.isascii() and version.isdigit() and int(version[:12]) > 0 and len(version) < 12
        ):
            return None
        return cls(model, int(version))

    def __str__(self) -> str:
        return f"{self.model}@{self.version}"


class Catalogue:
    """Configured models, what was found in the models directories, and the embedded one, in this order of precedence.

    Beside them, under names such as `goose@17`, models as earlier versions of the configuration had them: those that an alias
    names, and of those that clients have asked for, the last.
    """

    def __init__(self, settings: Settings, *, like: "Catalogue | None" = None) -> None:
        """`like` is one whose reading of files need not be repeated."""
        self.directories = [Path(directory).expanduser().absolute() for directory in settings.models.directories]
        self.settings = settings
        self._embedded = settings.models.embedded
        self._scanner = like._scanner if like is not None else Scanner()
        self._specs: dict[str, ModelSpec] = {}
        self._names: dict[str, str] = {}  # lower case name or alias → name
        self._versions: dict[int, Settings] = like._versions if like is not None else {}  # the last used at the end
        self._past: dict[Edition, Settings] = {}  # by name in lower case, the last asked for at the end
        self._named: set[Edition] = set()  # of these, by aliases
        self._editions: dict[str, ModelSpec] = {}
        self._splits = {alias.name.lower(): Split.of(alias.to) for alias in settings.alias}

    def specs(self) -> list[ModelSpec]:
        """Of today's configuration, by name."""
        return list(self._specs.values())

    def editions(self) -> list[ModelSpec]:
        """Of earlier ones, as far as they were recalled; each is named as it is asked for."""
        return list(self._editions.values())

    def aliases(self) -> list[str]:
        """Names that stand for others, in lower case."""
        return list(self._splits)

    def split(self, name: str) -> Split | None:
        """What this alias stands for; None where it is none."""
        return self._splits.get(name.lower())

    def is_model(self, name: str) -> bool:
        """Whether a model is called so today; an alias is none."""
        return name.lower() in _by_name(self._specs, self._splits)

    def past(self, version: int) -> Settings | None:
        """What was in force as this version, where it was recalled lately."""
        return self._versions.get(version)

    def recall(self, edition: Edition, settings: Settings, *, named: bool = False, in_use: Container[str] = ()) -> None:
        """Offer it from the next refresh on, where it is still the name of a model; `settings` were in force as its version.

        What is `named` by an alias stays for good. Of what clients have asked for the oldest goes when there is too much of it,
        but for what is in use, by name in lower case.
        """
        self._versions.pop(edition.version, None)
        self._versions[edition.version] = settings
        for version in list(self._versions)[:-_MOST_VERSIONS]:
            del self._versions[version]
        key = Edition(edition.model.lower(), edition.version)
        self._past.pop(key, None)
        self._past[key] = _of_one(settings, key.model)
        if named:
            self._named.add(key)
        spare = [other for other in self._past if other not in self._named and str(other) not in in_use]
        for oldest in spare[:-_MOST_EDITIONS]:
            del self._past[oldest]

    def keep(self, other: "Catalogue", in_use: Container[str]) -> None:
        """Offer the editions of `other` that are in use, by name in lower case."""
        for edition, settings in other._past.items():
            if str(edition) in in_use:
                self._past.setdefault(edition, settings)

    def resolve(self, name: str) -> ModelSpec:
        """The model of this name or alias, in whatever case; of an alias that leads to several, the one that most sessions get.

        Raises UnknownModel naming the nearest.
        """
        if (split := self._splits.get(name.lower())) is not None:
            name = split.targets[0]
        key = name if name in self._specs else self._names.get(name.lower())
        if key is not None:
            return self._specs[key]
        if (edition := self._editions.get(name.lower())) is not None:
            return edition
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
        looked: dict[tuple[Path, ...], list[Found]] = {}
        specs = self._found(looked)
        names: dict[str, str] = {}
        for name, spec in sorted(specs.items()):
            names.setdefault(name.lower(), name)
            for alias in spec.aliases:
                names.setdefault(alias.lower(), name)
        for alias in self._splits:
            names.pop(alias, None)  # a file that is called like one does not take its place
        editions = self._editions_of(specs, names, looked)
        # Plain assignments: a reader on another thread sees the old or the new, and resolves names it was told of.
        self._editions, self._names, self._specs = editions, names, {name: specs[name] for name in sorted(specs)}

    def _found(self, looked: dict[tuple[Path, ...], list[Found]], only: str | None = None) -> dict[str, ModelSpec]:
        """All models by name, of the files `only` those of a name in lower case; `looked` is what was found in directories that
        were looked into already.
        """
        specs: dict[str, ModelSpec] = {}
        if self._embedded and (found := self._scanner.examine(Path(demo.path()))) is not None:
            demo_spec = self._configured(Model(name="demo"), _spec(found, "embedded"))
            specs["demo"] = msgspec.structs.replace(demo_spec, strategy="cpu fp32")
        place = tuple(self.directories)
        if place not in looked:
            looked[place] = self._scanner.look(self.directories)
        for found in (found for found in looked[place] if only in (None, found.name.lower())):
            specs[found.name] = self._configured(Model(name=found.name), _spec(found, "directory"))
        for model in self.settings.model:
            specs[model.name] = self._from_configuration(model, specs.get(model.name))
        return specs

    def _editions_of(
        self, today: Mapping[str, ModelSpec], names: Container[str], looked: dict[tuple[Path, ...], list[Found]]
    ) -> dict[str, ModelSpec]:
        """By name in lower case. What was taken out of the configuration is not to be had by its past; `names` go before."""
        models = _by_name(today, self._splits)
        editions: dict[str, ModelSpec] = {}
        for edition, settings in tuple(self._past.items()):
            if (now := models.get(edition.model)) is None or str(edition) in names:
                continue
            then = _by_name(Catalogue(settings, like=self)._found(looked, edition.model), ())
            if (spec := then.get(edition.model)) is not None:
                editions[str(edition)] = _as_edition(spec, now, edition)
        return editions

    def _from_configuration(self, model: Model, found: ModelSpec | None) -> ModelSpec:
        """What was configured, over what was found under the same name or at the configured path."""
        base = found or ModelSpec(name=model.name, source="file")
        if model.path is not None:
            base = self._at(model.path)
        elif found is None and model.engine == "rwkv":
            base = msgspec.structs.replace(base, problem=f"No models directory holds a checkpoint called {model.name}.")
        configured = msgspec.structs.replace(self._configured(model, base), source="file")
        if found is not None and found.source == "embedded" and model.path is None and model.strategy is None:
            return msgspec.structs.replace(configured, strategy=found.strategy)
        return configured

    def _configured(self, model: Model, base: ModelSpec) -> ModelSpec:
        """What is known of a checkpoint, with what is said of this model, or else of all."""
        whole = effective(model, self.settings)
        return msgspec.structs.replace(
            base,
            name=model.name,
            engine=model.engine,
            strategy=whole.strategy,
            template=base.template if model.template is None else model.template,
            threads=model.threads,  # what [engine] says of threads, the engine itself keeps to
            max_concurrency=whole.max_concurrency,
            aliases=model.aliases,
            keep_alive=model.keep_alive,  # and the supervisor to what [lifecycle] says
            pin=model.pin,
            preload=model.preload,
            state=model.state,
            sampling=_as(SamplingDefaults, whole.sampling),
            limits=_as(Limits, whole.limits),
        )

    def _at(self, path: str) -> ModelSpec:
        written = Path(path).expanduser()
        places = [written] if written.is_absolute() else [directory / written for directory in self.directories]
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


def _by_name(specs: Mapping[str, ModelSpec], aliases: Container[str]) -> dict[str, ModelSpec]:
    """In lower case, but for those whose name an alias has taken."""
    return {name.lower(): spec for name, spec in specs.items() if name.lower() not in aliases}


def _of_one(settings: Settings, name: str) -> Settings:
    """As far as they are about this model, its name in lower case: whole documents are large, and clients choose how many."""
    models = tuple(model for model in settings.model if model.name.lower() == name)
    return msgspec.structs.replace(settings, model=models, alias=())


def _as_edition(spec: ModelSpec, today: ModelSpec, edition: Edition) -> ModelSpec:
    """What it was, within what it may be today: a client that asks for the past must not get around what holds now."""
    return msgspec.structs.replace(
        spec,
        name=f"{spec.name}@{edition.version}",
        aliases=(),
        pin=False,
        preload=False,
        keep_alive=today.keep_alive if today.keep_alive is None or today.keep_alive >= 0 else None,
        max_concurrency=min(spec.max_concurrency, today.max_concurrency),
        limits=Limits(
            prompt_tokens=min(spec.limits.prompt_tokens, today.limits.prompt_tokens),
            max_tokens=min(spec.limits.max_tokens, today.limits.max_tokens),
        ),
    )


def _spec(found: Found, source: Source) -> ModelSpec:
    spec = ModelSpec(
        name=found.name,
        source=source,
        path=str(found.path),
        weights=found.weights,
        size=found.size,
        created=found.modified,
        architecture=found.architecture,
        problem=found.problem,
    )
    if (shape := found.shape) is None:
        return spec
    return msgspec.structs.replace(
        spec,
        parameters=shape.parameters,
        vocabulary=shape.vocabulary,
        width=shape.width,
        layers=shape.layers,
        heads=shape.heads,
        head_size=shape.head_size,
        stored=shape.dtype,
        state_bytes=shape.state_bytes,
    )


def _as(kind: type[T], said: msgspec.Struct) -> T:
    return msgspec.convert(said, kind, from_attributes=True)
